//! What of the settings of TLS outlives a renewal, and whom certificates name.

use super::authority::Authority;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..2 {
        let stream = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let address = address.to_string();
        let (accepted, connected) = tokio::join!(
            server.accept_peer(accepted),
            client.connect_peer(&address, stream)
        );
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
