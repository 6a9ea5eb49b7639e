//! What of the settings of TLS outlives a renewal, and whom certificates name.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::authority::{Authority, Issued, Wish};
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Connects two peers: whether the first lets in the second, and the second the first.
async fn meet(server: &Tls, client: &Tls) -> (std::io::Result<()>, std::io::Result<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let address = address.to_string();
    let (accepted, connected) = tokio::join!(
        server.accept_peer(accepted),
        client.connect_peer(&address, stream)
    );
    (accepted.map(drop), connected.map(drop))
}

#[tokio::test]
async fn a_certificate_of_its_own_making_stays_for_the_same_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("revoked.pem");
    let (authority, _) = Authority::new("test", DAY).unwrap();
    std::fs::write(&list, authority.revoke(None, &[], DAY).unwrap()).unwrap();
    let settings = TlsSettings {
        auto: true,
        crl_file: Some(list),
        ..TlsSettings::default()
    };
    let rules = TlsRules::default();
    let hosts = ["node.test".to_owned()];
    let server = Tls::new(Side::Peers, &settings, &rules, &hosts).unwrap();
    let server = server.expect("it is on");
    // It demands what the certificate must be for.
    let settings = TlsSettings {
        auto: true,
        allowed_hosts: hosts.to_vec(),
        ..TlsSettings::default()
    };
    let client = Tls::new(Side::Peers, &settings, &rules, &[]).unwrap();
    let client = client.expect("it is on");
    for _ in 0..2 {
        let (accepted, connected) = meet(&server, &client).await;
        accepted.unwrap();
        connected.unwrap();
        // As if the list had changed.
        let before = server.current();
        server.refresh(Vec::new());
        assert!(
            !Arc::ptr_eq(&before, &server.current()),
            "it was read again"
        );
    }
}

/// An authority that another one vouches for.
fn intermediate(root: &Issued) -> Issued {
    let root_key = KeyPair::from_pem(&root.key).unwrap();
    let root = Issuer::from_ca_cert_pem(&root.certificate, root_key).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    Issued {
        certificate: params.signed_by(&key, &root).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// A list used to concern only the first certificate that was shown, and only if that was issued by
/// whoever signed the list.
#[tokio::test]
async fn every_list_concerns_every_certificate_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (root, root_issued) = Authority::new("root", DAY).unwrap();
    let between_issued = intermediate(&root_issued);
    let between = Authority::from_pem(&between_issued).unwrap();
    let wish = Wish {
        name: "node",
        hosts: &["127.0.0.1".to_owned()],
        validity: DAY,
    };
    let node = between.issue(&wish).unwrap();
    let chain = format!("{}\n{}", node.certificate, between_issued.certificate);
    let mut settings = TlsSettings {
        cert_file: Some(write("cert.pem", &chain)),
        key_file: Some(write("key.pem", &node.key)),
        trusted_ca_file: Some(write("ca.pem", &root_issued.certificate)),
        ..TlsSettings::default()
    };
    let start = |settings: &TlsSettings| {
        let tls = Tls::new(Side::Peers, settings, &TlsRules::default(), &[]);
        tls.unwrap().expect("it is on")
    };
    let without_list = start(&settings);
    for (signer, revoked, is_let_in) in [
        (&root, None, true),
        (&root, Some(&root_issued), true),
        (&root, Some(&between_issued), false),
        (&root, Some(&node), false),
        (&between, Some(&between_issued), false),
        (&between, Some(&node), false),
    ] {
        let revoked: Vec<String> = revoked.iter().map(|one| one.certificate.clone()).collect();
        let list = signer.revoke(None, &revoked, DAY).unwrap();
        settings.crl_file = Some(write("revoked.pem", &list));
        let with_list = start(&settings);
        let (accepted, _) = meet(&with_list, &without_list).await;
        assert_eq!(accepted.is_ok(), is_let_in, "{revoked:?}: {accepted:?}");
        let (_, connected) = meet(&without_list, &with_list).await;
        assert_eq!(connected.is_ok(), is_let_in, "{revoked:?}: {connected:?}");
    }
}

#[test]
fn of_several_common_names_the_last_one_counts() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "first");
    // The library takes a name once. Written as numbers, it is another one to it.
    let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
    params.distinguished_name.push(again, "last");
    let key = KeyPair::generate().unwrap();
    let shown = [params.self_signed(&key).unwrap().der().clone()];
    let name = CommonName::of(Some(&shown));
    assert_eq!(name, Some(CommonName("last".into())));
}
