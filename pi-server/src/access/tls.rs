//! TLS of the gRPC port: the server's certificate, where asked for those of clients, and both read again when their files
//! change. Connections that are open keep what they were opened with.
//!
//! Security: TLS 1.2 and 1.3 by rustls with ring. A client certificate must come from the operator's authority; the name in
//! it is the client's identity.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::access::certificate;
use crate::access::watch::Watched;
use crate::error::ServeError;
use crate::options::TlsFiles;

/// Certificates in use.
pub struct Tls {
    files: TlsFiles,
    watched: Watched,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files and checks that they can be used now.
    ///
    /// # Errors
    /// [`ServeError::Certificate`] naming the file.
    pub fn load(files: &TlsFiles) -> Result<Self, ServeError> {
        let paths = [
            Some(&files.certificate),
            Some(&files.key),
            files.client_ca.as_ref(),
        ];
        Ok(Self {
            watched: Watched::new(paths.into_iter().flatten().cloned()),
            config: RwLock::new(Arc::new(config(files)?)),
            files: files.clone(),
        })
    }

    /// Reads the files again if they have changed. What cannot be used leaves the old ones in place.
    ///
    /// # Errors
    /// [`ServeError::Certificate`] naming the file.
    pub fn refresh(&self) -> Result<bool, ServeError> {
        let Some(stamps) = self.watched.changed() else {
            return Ok(false);
        };
        let config = Arc::new(config(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.watched.accept(stamps);
        Ok(true)
    }

    /// When the first certificate of each file ends, in seconds from 1970, by the setting that names the file.
    #[must_use]
    pub fn expiries(&self) -> Vec<(&'static str, i64)> {
        let files = [
            ("tls-cert", Some(&self.files.certificate)),
            ("tls-client-ca", self.files.client_ca.as_ref()),
        ];
        let end = |path| certificate::expiry(&std::fs::read(path).ok()?);
        files
            .into_iter()
            .filter_map(|(setting, path)| Some((setting, end(path?)?)))
            .collect()
    }

    /// Makes handshakes with the certificates that are in use now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }
}

fn refused(path: &Path, reason: impl Into<String>) -> ServeError {
    ServeError::Certificate {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let pem = std::fs::read(path).map_err(|e| refused(path, format!("cannot read: {e}")))?;
    certificate::check_dates(path, &pem)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| refused(path, format!("it is not a PEM file: {e}")))
}

fn config(files: &TlsFiles) -> Result<ServerConfig, ServeError> {
    let certificates = chain(&files.certificate)?;
    let pem =
        std::fs::read(&files.key).map_err(|e| refused(&files.key, format!("cannot read: {e}")))?;
    let not_the_key = |e: String| {
        let certificate = files.certificate.display();
        refused(
            &files.key,
            format!("it is not the private key of {certificate}: {e}"),
        )
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| not_the_key(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(&files.certificate, e.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in chain(path)? {
                roots
                    .add(authority)
                    .map_err(|e| refused(path, e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|e| refused(path, e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|e| not_the_key(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
