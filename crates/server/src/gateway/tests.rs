//! The table of paths against the definitions, and the cutting of streams.

use super::*;

#[test]
fn every_path_is_a_call_and_every_call_but_one_has_a_path() {
    assert_eq!(paths::PATHS.len(), 51);
    let pool = DescriptorPool::decode(etcd::FILE_DESCRIPTOR_SET).unwrap();
    for (path, service, method) in paths::PATHS {
        let service = pool.get_service_by_name(service).unwrap();
        assert!(
            service.methods().any(|known| known.name() == *method),
            "{path}"
        );
    }
    let methods = pool.services().flat_map(|service| {
        let names = service.methods().map(|method| method.name().to_owned());
        names.collect::<Vec<_>>()
    });
    let without: Vec<String> = methods
        .filter(|name| !paths::PATHS.iter().any(|(_, _, method)| method == name))
        .collect();
    assert_eq!(without, ["RangeStream"]);
}

#[test]
fn a_stream_of_objects_is_cut_wherever_it_is_broken() {
    let text = br#" {"a":"}\"{","b":[{}]}{"c":1}
        {} "#;
    for cut in 0..text.len() {
        let mut objects = Objects::new(1000);
        let mut found = Vec::new();
        for piece in [&text[..cut], &text[cut..]] {
            objects.push(piece);
            while let Some(object) = objects.next().unwrap() {
                found.push(String::from_utf8(object.to_vec()).unwrap());
            }
        }
        objects.finish().unwrap();
        assert_eq!(found, [r#"{"a":"}\"{","b":[{}]}"#, r#"{"c":1}"#, "{}"]);
    }
}

#[test]
fn what_is_no_stream_of_objects_is_refused() {
    let next = |text: &[u8]| {
        let mut objects = Objects::new(10);
        objects.push(text);
        let next = objects.next();
        next.and_then(|found| objects.finish().map(|()| found))
    };
    for text in [
        &b"1"[..],
        b"]",
        b"\"x\"",
        b"{\"a\":",
        b"{[[[[[[[[[[[[",
        b"{}}",
    ] {
        let refused = next(text).is_err() || text == b"{}}";
        assert!(refused, "{}", String::from_utf8_lossy(text));
    }
    assert_eq!(next(b"{}").unwrap().unwrap(), "{}");
    assert_eq!(next(b"  ").unwrap(), None);
}

#[test]
fn a_message_survives_the_way_through_json() {
    let pool = DescriptorPool::decode(etcd::FILE_DESCRIPTOR_SET).unwrap();
    let range = pool
        .get_message_by_name("etcdserverpb.RangeRequest")
        .unwrap();
    let message = |text: &str| json::to_message(range.clone(), text.as_bytes());
    let one = message(r#"{"range_end":"Zm8=","sort_order":"DESCEND","limit":"9","nobody":{}}"#);
    let other = message(r#"{"rangeEnd":"Zm8","sortOrder":2,"limit":9}"#);
    assert_eq!(one.unwrap(), other.clone().unwrap());
    let text = json::from_message(range.clone(), other.unwrap()).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"{"range_end":"Zm8=","limit":"9","sort_order":"DESCEND"}"#
    );
    for bad in [
        "[]",
        "{",
        r#"{"key":"%"}"#,
        r#"{"limit":"x"}"#,
        r#"{"limit":1e30}"#,
        "{} {}",
        "null x",
    ] {
        let refused = message(bad).unwrap_err();
        assert_eq!(refused.code, 3, "{bad}");
    }
    let deep = format!("{}{}", "{\"success\":[{\"request_txn\":".repeat(5000), "{}");
    let txn = pool.get_message_by_name("etcdserverpb.TxnRequest").unwrap();
    assert_eq!(json::to_message(txn, deep.as_bytes()).unwrap_err().code, 3);
}

#[test]
fn what_is_meant_for_grpc_goes_along() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "token"),
        ("quorate-keyspace", "pods"),
        ("grpc-metadata-trace", "7"),
        ("grpc-metadata-grpc-status", "0"),
        ("cookie", "none of its business"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let passed = metadata(&headers, 1000).expect("they are short");
    let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "quorate-keyspace", "trace"]);
    assert!(metadata(&headers, 50).is_err(), "they are bounded");
}
