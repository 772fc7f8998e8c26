//! What kept inferences belong to: one model of one server, by the server's address.
//!
//! Addresses that differ in spelling alone are one: letter case of the host, the scheme's own port, a slash at the end. Names and
//! addresses of one machine are not: `localhost` may be `::1` where `127.0.0.1` is another server, and a name may lead to another one
//! tomorrow. To ask a server for what it never had costs all that waits (see [`super::Store::settle`]), so those stay apart, and the user
//! is told of them.

use std::fs;
use std::path::Path;

use super::{Item, WAITING, now_s};

/// The address in one spelling.
pub(super) fn spelled(url: &str) -> String {
    let url = url.trim_end_matches('/').to_ascii_lowercase();
    let own_port = match url.split_once("://") {
        Some(("http", _)) => ":80",
        Some(("https", _)) => ":443",
        _ => return url,
    };
    url.strip_suffix(own_port).unwrap_or(&url).to_owned()
}

/// The label of a folder that says what is in it, for [`elsewhere`].
pub(super) fn write_label(dir: &Path, folder: &str, place: &str) {
    let path = dir.join(format!("{folder}.place"));
    if !path.exists() {
        // Without it the user is told less.
        let _ = fs::write(path, place);
    }
}

/// Addresses of other servers under `dir` for whose model of the same name inferences wait, and how many.
pub(super) fn elsewhere(dir: &Path, url: &str, model: &str) -> Vec<(String, usize)> {
    let here = spelled(url);
    let mut found: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            if path.extension()? != "place" {
                return None;
            }
            let text = fs::read_to_string(&path).ok()?;
            let (url, of_model) = text.split_once('\n')?;
            if of_model != model || url == here {
                return None;
            }
            let n = n_waiting(&path.with_extension(""));
            (n > 0).then(|| (url.to_owned(), n))
        })
        .collect();
    found.sort();
    found
}

fn n_waiting(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            let item = Item::parse(name);
            name.ends_with(WAITING) && item.is_some_and(|item| item.expires_s > now_s())
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one_and_machines_are_not_guessed() {
        for (url, same) in [
            ("https://A.example/", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a:80/", "http://a"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(spelled(url), spelled(same));
            assert_eq!(spelled(url), same);
        }
        for (one, other) in [
            ("http://a:443", "http://a"),
            ("https://a:80", "https://a"),
            ("http://a", "https://a"),
            ("http://a:180", "http://a:1"),
            ("http://localhost:1", "http://127.0.0.1:1"),
        ] {
            assert_ne!(spelled(one), spelled(other));
        }
    }
}
