//! The certificates and the key that a client is given, read and checked before anything is sent.
//!
//! What is wrong with a file is then told with its name, instead of as a connection that fails.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, Identity};
use zeroize::Zeroizing;

use crate::error::ClientError;

fn wrong(path: &Path, reason: impl Into<String>) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn read(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|e| wrong(path, format!("cannot read the {what}: {e}")))?;
    Ok(Zeroizing::new(bytes))
}

/// The certificates in `pem`, at least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| wrong(path, format!("it is no PEM file: {e}")))?;
    match found.is_empty() {
        false => Ok(found),
        true if PrivateKeyDer::from_pem_slice(pem).is_ok() => Err(wrong(
            path,
            "it holds a private key and no certificate: name the file with the certificate here",
        )),
        true => Err(wrong(path, "it holds no certificate in PEM form")),
    }
}

/// The certificates to trust.
pub(super) fn authorities(path: &Path) -> Result<Certificate, ClientError> {
    let pem = read(path, "certificate")?;
    // Bundles of a system hold some that cannot be used; one that can is enough.
    let (n_usable, _) = RootCertStore::empty().add_parsable_certificates(certificates(path, &pem)?);
    if n_usable == 0 {
        return Err(wrong(path, "the certificate in it cannot be used"));
    }
    Ok(Certificate::from_pem(&*pem))
}

/// This client's certificate and its key.
pub(super) fn identity(certificate: &Path, key: &Path) -> Result<Identity, ClientError> {
    let pem = read(certificate, "certificate")?;
    let chain = certificates(certificate, &pem)?;
    let key_pem = read(key, "private key")?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| {
        let is_certificate = CertificateDer::from_pem_slice(&key_pem).is_ok();
        wrong(
            key,
            match is_certificate {
                true => {
                    "it holds a certificate and no private key: name the file with the key here"
                }
                false => "it holds no private key in PEM form, or one that is encrypted",
            },
        )
    })?;
    let not_usable = |e: rustls::Error| {
        let certificate = certificate.display();
        wrong(
            key,
            format!("it is not the private key of {certificate}: {e}"),
        )
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(not_usable)?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, private)
        .map_err(not_usable)?;
    Ok(Identity::from_pem(&*pem, &*key_pem))
}
