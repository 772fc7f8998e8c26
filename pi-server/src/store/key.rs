//! The key that seals kept inferences: 32 bytes as 64 hexadecimal digits or in base64, from a file or from `PI_STORE_KEY`.
//!
//! Security: a file that others may read is refused; the text is wiped and never shown. With the key and a copy of the store
//! one has the server's secrets of every inference in it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::contract::StoreError;

/// The variable that holds the key where no file is named.
pub const VARIABLE: &str = "PI_STORE_KEY";

const ADVICE: &str =
    "`(umask 077; openssl rand -hex 32 > store.key)` makes one for --store-key-file";

/// 32 bytes, wiped on drop.
pub type Key = Zeroizing<[u8; 32]>;

/// Reads the key from `file`, or else from the environment.
///
/// # Errors
/// [`StoreError::Settings`] that says what to do.
pub fn load(file: Option<&Path>) -> Result<Key, StoreError> {
    let Some(path) = file else {
        let text = std::env::var(VARIABLE).map_err(|_| {
            StoreError::Settings(format!(
                "the store needs a key: name its file with --store-key-file, or set {VARIABLE}; {ADVICE}"
            ))
        })?;
        let what = format!("the variable {VARIABLE}");
        return parse(&Zeroizing::new(text), &what);
    };
    let what = format!("the key file {}", path.display());
    let fail = |why: String| StoreError::Settings(format!("{what} {why}"));
    let read = |e: std::io::Error| fail(format!("cannot be read: {e}; {ADVICE}"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(fail(format!(
                "may be read by others (mode {:03o}); make it private with `chmod 600`",
                mode & 0o777
            )));
        }
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(read)?);
    parse(&text, &what)
}

fn parse(text: &str, what: &str) -> Result<Key, StoreError> {
    let text = text.trim();
    let mut key = Key::default();
    let read = if text.len() == 64 {
        let digits = text.as_bytes().as_chunks::<2>().0;
        let pairs = key.iter_mut().zip(digits);
        pairs.fold(true, |good, (byte, pair)| {
            let digit = |d: u8| char::from(d).to_digit(16);
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = (high << 4 | low) as u8;
                    good
                }
                _ => false,
            }
        })
    } else {
        let bytes = STANDARD.decode(text).map(Zeroizing::new);
        match bytes {
            Ok(bytes) if bytes.len() == key.len() => {
                key.copy_from_slice(&bytes);
                true
            }
            _ => false,
        }
    };
    if read {
        return Ok(key);
    }
    Err(StoreError::Settings(format!(
        "{what} does not hold 32 bytes as 64 hexadecimal digits or in base64; {ADVICE}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let hex = "00ff".repeat(16);
        let key = parse(&format!(" {hex}\n"), "it").unwrap();
        assert_eq!(key[..4], [0, 0xff, 0, 0xff]);
        let base64 = STANDARD.encode(*key);
        assert_eq!(parse(&base64, "it").unwrap(), key);
        for wrong in ["", "00ff", &hex[1..], &hex.replace('f', "g"), &base64[2..]] {
            let said = parse(wrong, "it").unwrap_err().to_string();
            assert!(said.contains("openssl rand"), "{said}");
            assert!(wrong.is_empty() || !said.contains(wrong), "{said}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "11".repeat(32)).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for shown in [0o640, 0o604, 0o644] {
            mode(shown);
            let said = load(Some(&path)).unwrap_err().to_string();
            assert!(
                said.contains("chmod 600") && !said.contains("1111"),
                "{said}"
            );
        }
        mode(0o600);
        assert_eq!(*load(Some(&path)).unwrap(), [0x11; 32]);
        let said = load(Some(&dir.path().join("none")))
            .unwrap_err()
            .to_string();
        assert!(said.contains("none") && said.contains("openssl"), "{said}");
    }
}
