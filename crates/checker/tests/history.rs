//! The format: what is written is read back the same, examples stay as documented, and what is not
//! a history is refused with the line and the reason.

use checker::Limits;
use checker::history::{
    ClientId, Event, EventKind, Header, History, Key, KeyValue, OperationId, Origin, Put,
    PutResult, Reader, Request, Response, Revision, Time, Value, Writer,
};

fn header() -> Header {
    Header::new(Origin::Simulator {
        seed: 7,
        commit: "b5ce32a".into(),
    })
}

fn history() -> History {
    let events = vec![
        Event {
            at: Time(100),
            event: EventKind::Invoke {
                id: OperationId(1),
                client: ClientId(2),
                request: Request::Put(Put {
                    key: "a".into(),
                    value: Value::from(vec![0, 10, 34, 200, 255]),
                    ..Put::default()
                }),
            },
        },
        Event {
            at: Time(950),
            event: EventKind::Ok {
                id: OperationId(1),
                revision: Revision(2),
                response: Response::Put(PutResult {
                    prev_kv: Some(KeyValue {
                        key: Key::from("a"),
                        ..KeyValue::default()
                    }),
                }),
            },
        },
    ];
    History {
        header: header(),
        events,
    }
}

fn written(history: &History) -> String {
    let mut writer = Writer::new(Vec::new(), &history.header).expect("memory takes all");
    for event in &history.events {
        writer.event(event).expect("memory takes all");
    }
    let bytes = writer.finish().expect("memory takes all");
    String::from_utf8(bytes).expect("JSON is text")
}

#[test]
fn what_is_written_is_read_back() {
    let history = history();
    let text = written(&history);
    assert_eq!(
        Reader::read(text.as_bytes(), Limits::default()),
        Ok(history)
    );
}

#[test]
fn lines_look_as_documented() {
    let text = written(&history());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "{\"history\":1,\"origin\":{\"simulator\":{\"seed\":7,\"commit\":\"b5ce32a\"}},\
             \"initial\":{\"revision\":1,\"compacted\":0},\"bounds\":{\"clock_drift_ppm\":0,\
             \"lease_early_ns\":0,\"lease_late_ns\":0,\"unknown_ns\":0}}",
            "{\"at\":100,\"event\":{\"invoke\":{\"id\":1,\"client\":2,\"request\":{\"put\":\
             {\"key\":\"a\",\"value\":\"\\u0000\\n\\\"\u{c8}\u{ff}\"}}}}}",
            "{\"at\":950,\"event\":{\"ok\":{\"id\":1,\"revision\":2,\"response\":{\"put\":\
             {\"prev_kv\":{\"key\":\"a\"}}}}}}",
        ]
    );
}

/// Every line that is wrong in one way, and what is said about it.
#[test]
fn malformed_histories_are_refused_with_line_and_reason() {
    let head = "{\"history\":1,\"origin\":{\"live\":{\"cluster\":\"c\",\"commit\":\"x\"}}}\n";
    let invoke =
        "{\"at\":5,\"event\":{\"invoke\":{\"id\":1,\"client\":1,\"request\":{\"put\":{}}}}}\n";
    let ok = "{\"at\":6,\"event\":{\"ok\":{\"id\":1,\"revision\":2,\"response\":{\"put\":{}}}}}\n";
    let cases: &[(&[&str], &str)] = &[
        (&[], "line 1: the history is empty"),
        (
            &["{\"history\":2,\"origin\":{\"live\":{\"cluster\":\"\",\"commit\":\"\"}}}\n"],
            "line 1: format 2 is not known",
        ),
        (&["hello\n"], "line 1: not a header: expected value"),
        (
            &[head, "{\"at\":5}\n"],
            "line 2: not an event: missing field `event`",
        ),
        (&[head, "\n"], "line 2: not an event: EOF"),
        (
            &[head, &invoke[..20]],
            "line 2: the line does not end: the file is cut off",
        ),
        (&[head, invoke, ok, invoke], "line 4: time goes back"),
        (&[head, ok], "line 2: operation 1 was never invoked"),
        (&[head, invoke, ok, ok], "line 4: operation 1 ended before"),
        (
            &[head, invoke, invoke],
            "line 3: operation 1 was invoked before",
        ),
        (
            &[head, &invoke.replace("put", "compact"), ok],
            "line 3: the answer does not fit",
        ),
        (
            &[head, &invoke.replace("{}", "{\"kez\":\"\"}")],
            "line 2: not an event: unknown field `kez`",
        ),
        (
            &[head, &invoke.replace("{}", "{\"key\":\"\u{2603}\"}")],
            "'☃' is not a byte",
        ),
        (
            &[
                head,
                "{\"at\":7,\"event\":{\"watch_lost\":{\"watch\":1}}}\n",
            ],
            "line 2: watch 1 was never created",
        ),
        (
            &[&head.replace("}}}", "}},\"initial\":{\"revision\":0}}")],
            "line 1: the initial revision is at least 1",
        ),
    ];
    for (lines, expected) in cases {
        let text = lines.concat();
        let refused = Reader::read(text.as_bytes(), Limits::default()).unwrap_err();
        assert!(
            refused.to_string().contains(expected),
            "{refused} for {text}"
        );
    }
}

#[test]
fn limits_hold() {
    let text = written(&history());
    for (limits, expected) in [
        (
            Limits {
                line_bytes: 50,
                ..Limits::default()
            },
            "line 1: longer than 50 bytes",
        ),
        (
            Limits {
                events: 1,
                ..Limits::default()
            },
            "line 3: more than 1 events",
        ),
        (
            Limits {
                history_bytes: 300,
                ..Limits::default()
            },
            "line 3: the history is longer",
        ),
    ] {
        let refused = Reader::read(text.as_bytes(), limits).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

/// Damage anywhere is refused or read as something else, and never a panic.
#[test]
fn damaged_bytes_never_panic() {
    let text = written(&history()).into_bytes();
    for place in 0..text.len() {
        for byte in [0, b'"', b'}', b'9', 0xff] {
            let mut damaged = text.clone();
            damaged[place] = byte;
            let _ = Reader::read(damaged.as_slice(), Limits::default());
        }
    }
}
