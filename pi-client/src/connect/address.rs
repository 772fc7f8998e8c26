//! A server's address: what is one, and whether it leaves this machine in the clear.
//!
//! Security: a password that somebody wrote into an address is never repeated in an error.

use crate::error::ClientError;

/// Whether `url` is a scheme, a host and perhaps a port, and nothing else.
///
/// # Errors
/// [`ClientError::Address`] or [`ClientError::Usage`].
pub fn check_address(url: &str) -> Result<(), ClientError> {
    if url.contains('@') {
        return Err(ClientError::Usage("the server's address holds a user's name or a password before an @, which is not taken; write http://HOST:PORT, or https://HOST:PORT for TLS, and give a token as a token".into()));
    }
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    let address = || ClientError::Address {
        url: url.to_owned(),
    };
    let rest = rest.ok_or_else(address)?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.is_empty() {
        return Err(address());
    }
    // A zone names an interface of one machine, and no library beneath takes it.
    if host.contains('%') {
        return Err(ClientError::Usage(format!(
            "'{url}' is not an address of a server: a zone after % is not taken; use another address of that machine, or a name"
        )));
    }
    let after_address = host.rsplit(']').next().unwrap_or_default();
    let port = after_address.split_once(':').map(|(_, port)| port);
    // Else the transport would take the port of the scheme without a word.
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err(ClientError::Usage(format!(
            "'{url}' is not an address of a server: a port is a number of 1 to 65535"
        )));
    }
    if !matches!(path, "" | "/") {
        let server = url.strip_suffix(path).unwrap_or_default();
        return Err(ClientError::Usage(format!(
            "what follows the port in the server's address would be ignored: write {server}"
        )));
    }
    Ok(())
}

/// Whether `url` is plain http to a host that is not this machine.
#[must_use]
pub fn leaves_this_machine_unprotected(url: &str) -> bool {
    let Some(authority) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
    else {
        return false;
    };
    // What stands before an @ is a user's name, not the host.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.find(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    };
    !is_loopback(host)
}

/// Whether `host`, in an address of a server, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: std::net::IpAddr| ip.is_loopback();
    address.parse().is_ok_and(is_loopback) || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port_and_a_password_is_not_repeated() {
        for url in [
            "http://a",
            "https://a:65535",
            "http://a:1/",
            "http://[::1]:5",
        ] {
            check_address(url).unwrap();
        }
        for url in [
            "a:1",
            "ftp://a",
            "http://",
            "http:///x",
            "http://a:1/foo",
            "https://a:1/?x=1",
            "http://a#b",
            "http://a:",
            "https://a:0",
            "http://127.0.0.1:65536",
            "http://[::1]:99999",
            "http://a:+1",
            "http://a:1:2",
            "http://[fe80::1%25eth0]:5",
        ] {
            assert!(check_address(url).is_err(), "{url}");
        }
        for url in ["http://me:secret@a:1", "me:secret@a", "https://secret@a/b"] {
            let said = check_address(url).unwrap_err().to_string();
            assert!(
                said.contains("password") && !said.contains("secret"),
                "{said}"
            );
        }
        let said = check_address("http://a:1/foo").unwrap_err().to_string();
        assert!(said.ends_with("write http://a:1"), "{said}");
    }
}
