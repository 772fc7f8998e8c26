//! Certificates: reading and checking those of an operator, making one for development.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;

use crate::error::ServeError;
use crate::options::TlsFiles;

/// File name of the development certificate.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
/// File name of its private key.
pub const KEY_FILE: &str = "key.pem";
/// Days that a development certificate is valid.
const VALID_DAYS: u64 = 90;

/// Checks that `chain`, read from `path`, holds certificates and that they are valid now.
pub(crate) fn check_dates(path: &Path, chain: &[u8]) -> Result<(), ServeError> {
    let mut n_certificates = 0;
    for pem in Pem::iter_from_buffer(chain) {
        let pem = pem.map_err(|e| refused(path, format!("it is not a PEM file: {e}")))?;
        let certificate = pem
            .parse_x509()
            .map_err(|e| refused(path, format!("it is not a certificate: {e}")))?;
        let validity = certificate.validity();
        if !validity.is_valid() {
            return Err(refused(
                path,
                format!(
                    "the certificate is valid from {} to {} and not now; renew it, or set this machine's clock",
                    validity.not_before, validity.not_after
                ),
            ));
        }
        n_certificates += 1;
    }
    if n_certificates == 0 {
        return Err(refused(path, "it holds no certificate in PEM form".into()));
    }
    Ok(())
}

/// When the first of the certificates in `chain` ends, in seconds from 1970.
pub(crate) fn expiry(chain: &[u8]) -> Option<i64> {
    let ends = Pem::iter_from_buffer(chain).filter_map(|pem| {
        let pem = pem.ok()?;
        Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
    });
    ends.min()
}

/// Whose certificate it is: its common name, else its first alternative name, else its hash. The caller has checked that it
/// comes from an authority that the operator trusts.
pub(crate) fn name(certificate: &CertificateDer<'_>) -> String {
    let parsed = parse_x509_certificate(certificate).ok();
    let named = parsed.and_then(|(_, parsed)| {
        let common = parsed.subject().iter_common_name().next();
        let common = common
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned);
        common.or_else(|| {
            let others = parsed.subject_alternative_name().ok().flatten()?;
            others
                .value
                .general_names
                .iter()
                .find_map(|name| match name {
                    GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
        })
    });
    named.unwrap_or_else(|| format!("certificate {}", blake3::hash(certificate).to_hex()))
}

/// Makes a self-signed certificate for `hosts` and its private key in folder `dir`. The key's file is readable by its
/// owner only, and nothing is overwritten.
///
/// # Errors
/// [`ServeError::Certificate`] naming the file that could not be written.
pub fn make(dir: &Path, hosts: &[String]) -> Result<TlsFiles, ServeError> {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    make_valid(dir, hosts, now - day, now + day * VALID_DAYS as u32)
}

fn make_valid(
    dir: &Path,
    hosts: &[String],
    from: SystemTime,
    to: SystemTime,
) -> Result<TlsFiles, ServeError> {
    let files = TlsFiles {
        certificate: dir.join(CERTIFICATE_FILE),
        key: dir.join(KEY_FILE),
        client_ca: None,
    };
    let fail = |e: rcgen::Error| refused(&files.certificate, e.to_string());
    let mut params = CertificateParams::new(hosts).map_err(fail)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "private inference, development");
    params.not_before = from.into();
    params.not_after = to.into();
    let key = KeyPair::generate().map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    std::fs::create_dir_all(dir).map_err(|e| refused(dir, format!("cannot make it: {e}")))?;
    write_new(&files.key, &key.serialize_pem(), 0o600)?;
    write_new(&files.certificate, &certificate.pem(), 0o644)?;
    Ok(files)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), ServeError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| {
            let hint = match e.kind() {
                std::io::ErrorKind::AlreadyExists => "; remove it first or choose another --out",
                _ => "",
            };
            refused(path, format!("cannot write: {e}{hint}"))
        })
}

fn refused(path: &Path, reason: String) -> ServeError {
    ServeError::Certificate {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &TlsFiles) -> Result<(), ServeError> {
        crate::access::tls::Tls::load(files).map(drop)
    }

    const HOSTS: &[&str] = &["localhost", "127.0.0.1"];

    fn hosts() -> Vec<String> {
        HOSTS.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_made_certificate_loads_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let files = make(dir.path(), &hosts()).unwrap();
        load(&files).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&files.key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let again = make(dir.path(), &hosts()).unwrap_err().to_string();
        assert!(again.contains("remove it first"), "{again}");
        let pem = std::fs::read(&files.certificate).unwrap();
        let pem = Pem::iter_from_buffer(&pem).next().unwrap().unwrap();
        assert_eq!(name(&pem.contents.into()), "private inference, development");
        assert!(name(&vec![1, 2, 3].into()).starts_with("certificate "));
    }

    #[test]
    fn expired_broken_and_mismatched_files_are_refused_by_name() {
        let [a, b, c] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let expired = make_valid(a.path(), &hosts(), now - hour * 2, now - hour).unwrap();
        let said = load(&expired).unwrap_err().to_string();
        assert!(
            said.contains("not now") && said.contains(CERTIFICATE_FILE),
            "{said}"
        );
        let (one, two) = (
            make(b.path(), &hosts()).unwrap(),
            make(c.path(), &hosts()).unwrap(),
        );
        let said = load(&TlsFiles {
            certificate: one.certificate.clone(),
            key: two.key,
            client_ca: None,
        })
        .unwrap_err()
        .to_string();
        assert!(said.contains("not the private key"), "{said}");
        std::fs::write(&one.certificate, "hello").unwrap();
        let said = load(&one).unwrap_err().to_string();
        assert!(said.contains("no certificate"), "{said}");
        std::fs::remove_file(&one.key).unwrap();
        std::fs::remove_file(&one.certificate).unwrap();
        assert!(load(&one).unwrap_err().to_string().contains("cannot read"));
    }
}
