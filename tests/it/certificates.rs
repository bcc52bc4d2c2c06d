//! A run's certificate authority in the tests' hands, which makes also certificates that no controller makes.

use std::time::{Duration, SystemTime};

use fleetdrop::model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519,
};

const HOUR: Duration = Duration::from_secs(3600);

/// The names of the controller's certificate.
pub(crate) const CONTROLLER: [&str; 2] = [Identity::CONTROLLER, Identity::MEMBER];
/// The name of an agent's.
pub(crate) const MEMBER: [&str; 1] = [Identity::MEMBER];

/// An authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    now: SystemTime,
}

impl Ca {
    pub(crate) fn new() -> Self {
        Self::at(SystemTime::now())
    }

    /// One whose controller's clock shows that time.
    pub(crate) fn at(now: SystemTime) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = params(&[], now + HOUR);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate, now }
    }

    /// What a process of the run has.
    pub(crate) fn identity(&self, names: &[&str]) -> Identity {
        self.until(names, self.now + HOUR)
    }

    /// What a process had that belonged to it, until a minute ago.
    pub(crate) fn expired(&self, names: &[&str]) -> Identity {
        self.until(names, self.now - Duration::from_secs(60))
    }

    fn until(&self, names: &[&str], end: SystemTime) -> Identity {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params(names, end).signed_by(&key, &self.issuer).unwrap().der().to_vec();
        self.told(certificate, &key)
    }

    /// What somebody makes for himself who has heard of the run's authority.
    pub(crate) fn self_made(&self, names: &[&str]) -> Identity {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params(names, self.now + HOUR).self_signed(&key).unwrap().der().to_vec();
        self.told(certificate, &key)
    }

    /// What a host of the run makes for somebody else with its own key, as if it were an authority; and its own certificate, which is said to
    /// support that.
    pub(crate) fn by_host(&self, names: &[&str]) -> (Identity, Vec<u8>) {
        let host = self.identity(&MEMBER);
        let issuer = Issuer::new(params(&[], self.now + HOUR), KeyPair::try_from(host.key).unwrap());
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params(names, self.now + HOUR).signed_by(&key, &issuer).unwrap().der().to_vec();
        (self.told(certificate, &key), host.certificate)
    }

    fn told(&self, certificate: Vec<u8>, key: &KeyPair) -> Identity {
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Identity { authority: self.certificate.clone(), certificate, key: key.serialize_der(), now }
    }
}

fn params(names: &[&str], end: SystemTime) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = ((end - 2 * HOUR).into(), end.into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}
