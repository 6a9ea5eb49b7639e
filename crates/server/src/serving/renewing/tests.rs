//! Keep-alives of several streams, as the service sees them.

use base::{ClusterId, Epoch, NodeId};
use etcd::proto::etcdserverpb::ResponseHeader;
use http::HeaderValue;
use node::hub::{Member, Publication};
use state::Revision;

use super::*;

const ONE: StreamId = StreamId::from_bits(1);
const TWO: StreamId = StreamId::from_bits(2);

fn service(limits: &ClientLimits) -> RenewalService {
    let mut service = RenewalService::new(limits);
    for stream in [ONE, TWO] {
        service.opened(
            stream,
            &HeaderMap::new(),
            Identity::default(),
            &mut Vec::new(),
        );
    }
    service
}

fn ask(service: &mut RenewalService, stream: StreamId, id: i64) {
    let message = LeaseKeepAliveRequest { id }.encode_to_vec();
    service.message(stream, message.into(), &mut Vec::new());
}

/// The call that the service makes at `millis`, if it makes one.
fn flush(service: &mut RenewalService, millis: u64) -> Option<(Ticket, Vec<i64>)> {
    let now = Instant::default() + Duration::from_millis(millis);
    let mut calls = Vec::new();
    service.flush(now, &mut Vec::new(), &mut calls);
    assert!(calls.len() <= 1);
    let (ticket, call) = calls.pop()?;
    let Call::RenewLeases(leases) = call else {
        panic!("it asks for nothing but renewals");
    };
    Some((ticket, leases.iter().map(|lease| lease.0).collect()))
}

fn answer(seconds: &[i64]) -> Answered {
    Ok(Answer::LeasesRenewed(Ok(RenewedLeases {
        header: ResponseHeader::default(),
        seconds: seconds.to_vec(),
    })))
}

/// What a piece of bytes says: leases and their seconds.
fn messages(framed: &Bytes) -> Vec<(i64, i64)> {
    let mut deframer = grpc::Deframer::new(1000);
    deframer.push(framed.clone());
    let messages = std::iter::from_fn(|| deframer.next().unwrap());
    messages
        .map(|message| LeaseKeepAliveResponse::decode(message).unwrap())
        .map(|response| (response.id, response.ttl))
        .collect()
}

/// The service's answers to one of its calls, as lines.
fn answered(service: &mut RenewalService, ticket: Ticket, answered: Answered) -> Vec<String> {
    let mut effects = Vec::new();
    service.answered(ticket, answered, &mut effects);
    let lines = effects.into_iter().map(|effect| match effect {
        Effect::SendFramed {
            stream,
            framed,
            messages: count,
        } => {
            let messages = messages(&framed);
            assert_eq!(messages.len(), count);
            format!("{}: {messages:?}", stream.bits())
        }
        Effect::End { stream, status } => format!("{} ends {}", stream.bits(), status.code),
        Effect::Send { .. } => panic!("it sends in bulk"),
    });
    lines.collect()
}

#[test]
fn what_comes_within_a_moment_goes_together_and_the_first_at_once() {
    let mut service = service(&ClientLimits::default());
    assert_eq!(service.deadline(), None, "nobody renews anything");
    ask(&mut service, ONE, 7);
    let (first, leases) = flush(&mut service, 100).expect("nothing was renewed of late");
    assert_eq!(leases, [7]);
    for (stream, id) in [(TWO, 3), (ONE, 8), (TWO, 4), (ONE, 7)] {
        ask(&mut service, stream, id);
        assert_eq!(flush(&mut service, 109), None, "it has just called");
    }
    let due = service.deadline().expect("some are gathered");
    assert_eq!(due, Instant::default() + Duration::from_millis(110));
    let (second, leases) = flush(&mut service, 110).expect("it is time");
    assert_eq!(leases, [3, 8, 4, 7]);
    // The answers of a node may overtake each other, those to a client may not.
    let nothing: &[&str] = &[];
    assert_eq!(
        answered(&mut service, second, answer(&[60, 61, 0, 60])),
        nothing
    );
    assert_eq!(
        answered(&mut service, first, answer(&[60])),
        [
            "1: [(7, 60)]",
            "1: [(8, 61), (7, 60)]",
            "2: [(3, 60), (4, 0)]"
        ]
    );
}

#[test]
fn a_stream_is_not_read_while_it_owes_too_much() {
    let limits = ClientLimits {
        renewals_per_stream: 2,
        ..ClientLimits::default()
    };
    let mut service = service(&limits);
    ask(&mut service, ONE, 7);
    assert!(service.takes(ONE));
    ask(&mut service, ONE, 8);
    assert!(!service.takes(ONE));
    assert!(service.takes(TWO), "others are");
    let (ticket, _) = flush(&mut service, 100).unwrap();
    assert_eq!(answered(&mut service, ticket, answer(&[60, 60])).len(), 1);
    assert!(!service.takes(ONE), "its client has taken nothing");
    service.taken(ONE, 30, 2, &mut Vec::new());
    assert!(service.takes(ONE));
}

#[test]
fn with_too_many_calls_under_way_they_grow() {
    let limits = ClientLimits {
        renewal_batches: 2,
        ..ClientLimits::default()
    };
    let mut service = service(&limits);
    let mut tickets = Vec::new();
    for millis in [100, 200] {
        ask(&mut service, ONE, 7);
        tickets.push(flush(&mut service, millis).unwrap().0);
    }
    for millis in [300, 400] {
        ask(&mut service, ONE, 7);
        assert_eq!(flush(&mut service, millis), None);
        assert_eq!(service.deadline(), None, "time alone changes nothing");
    }
    answered(&mut service, tickets[0], answer(&[60]));
    assert_eq!(flush(&mut service, 500).unwrap().1, [7, 7]);
}

#[test]
fn a_batch_is_bounded_and_the_rest_goes_with_the_next() {
    let limits = ClientLimits {
        renewals_per_batch: 3,
        ..ClientLimits::default()
    };
    let mut service = service(&limits);
    for (stream, id) in [(ONE, 1), (TWO, 2), (ONE, 3), (TWO, 4)] {
        ask(&mut service, stream, id);
    }
    let (first, leases) = flush(&mut service, 100).unwrap();
    assert_eq!(leases, [1, 2, 3]);
    let due = service.deadline().expect("one is left");
    assert_eq!(due, Instant::default() + Duration::from_millis(110));
    ask(&mut service, ONE, 5);
    let (second, leases) = flush(&mut service, 110).unwrap();
    assert_eq!(leases, [4, 5]);
    assert_eq!(service.deadline(), None, "nothing is left");
    assert_eq!(
        answered(&mut service, first, answer(&[61, 62, 63])),
        ["1: [(1, 61), (3, 63)]", "2: [(2, 62)]"]
    );
    assert_eq!(
        answered(&mut service, second, answer(&[64, 65])),
        ["1: [(5, 65)]", "2: [(4, 64)]"]
    );
}

#[test]
fn a_stream_ends_with_its_last_answer_with_an_error_or_with_its_client() {
    let mut service = service(&ClientLimits::default());
    ask(&mut service, ONE, 7);
    ask(&mut service, TWO, 8);
    let (ticket, _) = flush(&mut service, 100).unwrap();
    let mut effects = Vec::new();
    service.finished(ONE, &mut effects);
    assert!(effects.is_empty(), "it is owed an answer");
    service.closed(TWO);
    assert_eq!(
        answered(&mut service, ticket, answer(&[60, 60])),
        ["1: [(7, 60)]", "1 ends 0"]
    );
    service.opened(TWO, &HeaderMap::new(), Identity::default(), &mut effects);
    service.finished(TWO, &mut effects);
    assert!(matches!(&effects[..], [Effect::End { status, .. }] if *status == Status::OK));

    service.opened(ONE, &HeaderMap::new(), Identity::default(), &mut effects);
    ask(&mut service, ONE, 7);
    ask(&mut service, ONE, 8);
    let (ticket, _) = flush(&mut service, 200).unwrap();
    let failed = Ok(Answer::LeasesRenewed(Err(etcd::Error::Timeout)));
    let code = etcd::Error::Timeout.code().number();
    assert_eq!(
        answered(&mut service, ticket, failed),
        [format!("1 ends {code}")],
        "once"
    );

    service.opened(ONE, &HeaderMap::new(), Identity::default(), &mut effects);
    effects.clear();
    service.message(ONE, Bytes::from_static(&[255]), &mut effects);
    let code = etcd::Code::Internal.number();
    assert!(matches!(&effects[..], [Effect::End { status, .. }] if status.code == code));
}

#[test]
fn an_answer_that_fits_no_question_ends_the_streams() {
    let mut service = service(&ClientLimits::default());
    ask(&mut service, ONE, 7);
    let (ticket, _) = flush(&mut service, 100).unwrap();
    let code = etcd::Code::Internal.number();
    assert_eq!(
        answered(&mut service, ticket, answer(&[])),
        [format!("1 ends {code}")]
    );
}

#[test]
fn a_keyspace_that_does_not_answer_holds_up_no_other() {
    let limits = ClientLimits {
        renewal_batches: 1,
        ..ClientLimits::default()
    };
    let mut service = service(&limits);
    let mut headers = HeaderMap::new();
    headers.insert("quorate-keyspace", http::HeaderValue::from_static("pods"));
    let three = StreamId::from_bits(3);
    let identity = Identity::new(&headers, None);
    service.opened(three, &headers, identity, &mut Vec::new());
    let calls_at = |service: &mut RenewalService, millis: u64| {
        let now = Instant::default() + Duration::from_millis(millis);
        let mut calls = Vec::new();
        service.flush(now, &mut Vec::new(), &mut calls);
        calls
    };
    ask(&mut service, three, 7);
    let calls = calls_at(&mut service, 100);
    let [(of_pods, Call::In { keyspace, call })] = &calls[..] else {
        panic!("a call in a keyspace: {calls:?}");
    };
    assert_eq!(&**keyspace, "pods");
    assert!(matches!(&**call, Call::RenewLeases(leases) if *leases == [LeaseId(7)]));
    ask(&mut service, three, 8);
    ask(&mut service, ONE, 9);
    let (of_default, leases) = flush(&mut service, 200).expect("its line is free");
    assert_eq!(leases, [9], "the other line waits for its answer");
    assert_eq!(
        answered(&mut service, of_default, answer(&[60])),
        ["1: [(9, 60)]"]
    );
    assert_eq!(
        answered(&mut service, *of_pods, answer(&[61])),
        ["3: [(7, 61)]"]
    );
    assert_eq!(calls_at(&mut service, 300).len(), 1);
    service.closed(three);
    service.answered(Ticket(3), answer(&[62]), &mut Vec::new());
    assert!(
        !service.lines.contains_key(&Some("pods".into())),
        "nobody uses it"
    );
}

#[test]
fn who_insists_on_a_leader_is_sent_elsewhere_after_a_while_without_one() {
    let limits = ClientLimits::default();
    let mut service = service(&limits);
    let insisting = StreamId::from_bits(3);
    let mut headers = HeaderMap::new();
    headers.insert("hasleader", HeaderValue::from_static("true"));
    let nobody = Identity::default();
    service.opened(insisting, &headers, nobody, &mut Vec::new());
    let member = Member {
        cluster: ClusterId(1),
        node: NodeId(1),
    };
    let published = |has_leader| News::Published {
        group: META,
        publication: Publication {
            member,
            batches: Arc::new([]),
            revision: Revision(1),
            compacted: Revision(0),
            term: Epoch(1),
            has_leader,
            reset: false,
            access: None,
        },
    };
    let told = |service: &mut RenewalService, at: Instant, has_leader| {
        service.told(at, &published(has_leader), &mut Vec::new());
    };
    let ended = |service: &mut RenewalService, at: Instant| {
        let mut effects = Vec::new();
        service.flush(at, &mut effects, &mut Vec::new());
        let ends = effects.into_iter().map(|effect| match effect {
            Effect::End { stream, status } => (stream.bits(), status),
            _ => panic!("nothing was asked for"),
        });
        ends.collect::<Vec<_>>()
    };
    let patience = limits.hub.leaderless_patience;
    let start = Instant::default();
    assert_eq!(service.deadline(), None);
    told(&mut service, start, false);
    assert_eq!(service.deadline(), Some(start + patience));
    told(&mut service, start + patience / 2, true);
    assert_eq!(service.deadline(), None, "somebody leads again");
    let lost = start + patience;
    told(&mut service, lost, false);
    told(&mut service, lost + patience / 2, false);
    assert_eq!(ended(&mut service, lost + patience / 2), []);
    let no_leader = Status::from(&etcd::Error::NoLeader);
    assert_eq!(ended(&mut service, lost + patience), [(3, no_leader)]);
    assert_eq!(service.deadline(), None, "the others do not mind");
    assert_eq!(ended(&mut service, lost + patience * 2), []);
}
