//! Keep-alives of several streams, as the service sees them.

use base::{ClusterId, Epoch, NodeId, Slot, WallTime};
use etcd::auth::{Access, AuthRequest};
use etcd::proto::etcdserverpb::ResponseHeader;
use http::HeaderValue;
use node::hub::{Member, Publication};
use state::{EntryStamp, Revision, State};

use super::*;
use crate::authority::Tokens;
use crate::node_loop::Clock;
use crate::tls::CommonName;

const ONE: StreamId = StreamId::from_bits(1);
const TWO: StreamId = StreamId::from_bits(2);

fn authority(limits: &ClientLimits) -> Authority {
    Authority::new(Tokens::Simple, 4, &limits.auth, Clock::start())
}

fn service(limits: &ClientLimits) -> RenewalService {
    let mut service = RenewalService::new(limits, authority(limits));
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
    let Call::RenewLeases { leases, .. } = call else {
        panic!("it asks for nothing but renewals");
    };
    Some((ticket, leases.iter().map(|lease| lease.0).collect()))
}

fn answer(seconds: &[i64]) -> Answered {
    answer_each(seconds.iter().copied().map(Ok).collect())
}

fn answer_each(seconds: Vec<Result<i64, etcd::Error>>) -> Answered {
    Ok(Answer::LeasesRenewed(Ok(RenewedLeases {
        header: ResponseHeader::default(),
        seconds,
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
    lines(effects)
}

fn lines(effects: Vec<Effect>) -> Vec<String> {
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
    assert!(matches!(&**call, Call::RenewLeases { leases, .. } if *leases == [LeaseId(7)]));
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

/// Told of a state in which users have to sign in.
fn with_users(authority: &Authority) {
    let mut state = State::new(state::Limits::default());
    let (user, role) = (String::from("root"), String::from("root"));
    for request in [
        AuthRequest::UserAdd {
            name: user.clone(),
            password_hash: Some("hash".into()),
        },
        AuthRequest::UserGrantRole { user, role },
        AuthRequest::Enable { token_key: [1; 32] },
    ] {
        let request = etcd::Request::Auth(request);
        let planned = etcd::plan(request, &etcd::RequestLimits::default());
        let Ok(etcd::Plan::Command(record)) = planned else {
            panic!("not a change: {planned:?}");
        };
        let slot = Slot(state.reader().applied().0 + 1);
        state.begin_entry(&EntryStamp {
            slot,
            epoch: Epoch(1),
            wall: WallTime(0),
            elapsed: Duration::ZERO,
        });
        etcd::execute(state.transaction(), &record).unwrap();
        let _ = state.end_entry();
    }
    authority.told(Arc::new(Access::of(state.reader())));
}

/// A user who was shut out went on renewing for as long as his stream was open, and nobody was
/// asked who he was at all.
#[test]
fn each_user_is_asked_for_by_himself_and_one_who_is_refused_harms_no_other() {
    let limits = ClientLimits::default();
    let authority = authority(&limits);
    let mut service = RenewalService::new(&limits, authority.clone());
    let nobody = Identity::default;
    let user = |name: &str| Identity::new(&HeaderMap::new(), Some(&CommonName(name.into())));
    let stranger = || {
        let mut headers = HeaderMap::new();
        headers.insert("token", HeaderValue::from_static("what.is.this"));
        Identity::new(&headers, None)
    };
    let [ann, bob, other, late] = [1, 2, 3, 4].map(StreamId::from_bits);
    let [unknown, unnamed] = [5, 6].map(StreamId::from_bits);
    for (stream, identity) in [
        (ann, user("ann")),
        (bob, user("bob")),
        (other, user("ann")),
        (late, user("bob")),
        (unknown, stranger()),
        (unnamed, nobody()),
    ] {
        service.opened(stream, &HeaderMap::new(), identity, &mut Vec::new());
    }
    // Nobody has to sign in: all go together, on nobody's behalf.
    for (stream, id) in [(ann, 1), (unknown, 2), (unnamed, 3)] {
        ask(&mut service, stream, id);
    }
    let (ticket, leases) = flush(&mut service, 100).expect("they are renewed");
    assert_eq!(leases, [1, 2, 3]);
    assert_eq!(
        answered(&mut service, ticket, answer(&[60, 60, 60])).len(),
        3
    );

    with_users(&authority);
    for (stream, id) in [
        (ann, 1),
        (bob, 2),
        (ann, 3),
        (other, 4),
        (unknown, 5),
        (unnamed, 6),
        (ann, 7),
        (late, 8),
    ] {
        ask(&mut service, stream, id);
    }
    let (mut effects, mut calls) = (Vec::new(), Vec::new());
    let now = Instant::default() + Duration::from_millis(200);
    service.flush(now, &mut effects, &mut calls);
    assert!(effects.is_empty(), "what was sent before is answered first");
    let asked = calls.iter().map(|(_, call)| {
        let (user, call) = match call {
            Call::As { caller, call } => (caller.user.as_str(), &**call),
            call => ("", call),
        };
        match call {
            Call::RenewLeases { leases, .. } => (user, leases.iter().map(|id| id.0).collect()),
            other => panic!("{other:?}"),
        }
    });
    let asked: Vec<(&str, Vec<i64>)> = asked.collect();
    let expected = [
        ("ann", vec![1, 3, 4, 7]),
        ("bob", vec![2, 8]),
        ("", vec![6]),
    ];
    assert_eq!(asked, expected);
    let [of_ann, of_bob, of_nobody] = [0, 1, 2].map(|index: usize| calls[index].0);
    let nothing: &[&str] = &[];
    let denied = etcd::Error::PermissionDenied;
    let of_two = answer_each(vec![Err(denied), Ok(62)]);
    assert_eq!(answered(&mut service, of_bob, of_two), nothing);
    let of_four = answer_each(vec![Ok(60), Err(denied), Ok(61), Ok(60)]);
    assert_eq!(
        answered(&mut service, of_ann, of_four),
        [
            "1: [(1, 60)]",
            "1 ends 7",
            "3: [(4, 61)]",
            "2 ends 7",
            "4: [(8, 62)]",
            "5 ends 16"
        ]
    );
    let refused = Ok(Answer::LeasesRenewed(Err(etcd::Error::UserEmpty)));
    assert_eq!(answered(&mut service, of_nobody, refused), ["6 ends 3"]);

    // One who stands alone waits for nobody; one who is gone is asked for no more.
    service.opened(unknown, &HeaderMap::new(), stranger(), &mut Vec::new());
    ask(&mut service, unknown, 9);
    service.flush(now + limits.renewal_gathering, &mut effects, &mut calls);
    assert_eq!(lines(std::mem::take(&mut effects)), ["5 ends 16"]);
    for stream in [other, late] {
        ask(&mut service, stream, 9);
        service.closed(stream);
    }
    let later = now + limits.renewal_gathering * 2;
    service.flush(later, &mut effects, &mut calls);
    assert!(effects.is_empty());
    assert_eq!(calls.len(), 3, "nothing was asked for since");
    assert!(service.lines.is_empty(), "nobody is left");
}
