//! Whom a host trusts to be an origin: the certificates that the operator named, or else those of the host's own files.

use std::sync::Arc;

use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};

use crate::{http::HttpError, swarm::transport::provider};

/// Makes what TLS connections are made with; `certificates` are the operator's, in PEM. Reads files.
pub(super) fn connector(certificates: Option<&str>) -> Result<TlsConnector, HttpError> {
    let mut roots = RootCertStore::empty();
    match certificates {
        Some(pem) => {
            let unusable =
                |error: String| HttpError::Certificates(format!("the certificates of --origin-ca can't be used: {error}"));
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unusable("there is none in the file".to_owned()));
            }
        }
        None => {
            // Single files that are no good, which every system has, keep nobody from the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let text = "there are no trusted certificates on this machine (in Debian the package ca-certificates has them)";
                return Err(HttpError::Certificates(text.to_owned()));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Certificates(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
