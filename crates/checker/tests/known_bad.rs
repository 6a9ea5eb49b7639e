//! Small histories, each with one promise broken, are refused for that promise; their sound twins
//! pass.
//!
//! A history is written as one line per happening, a word per field; `lines` makes the JSON of it:
//! `at id put key value [lease]`, `at id ok revision ...`.

use checker::{Options, Report, Rule, Verdict, check};

/// Puts a history together: each entry is the inside of `event`, at one millisecond after the
/// other.
fn report(bounds: &str, events: &[(u64, String)]) -> Report {
    let mut text = format!(
        "{{\"history\":1,\"origin\":{{\"simulator\":{{\"seed\":0,\"commit\":\"\"}}}},\
         \"bounds\":{{{bounds}}}}}\n"
    );
    for (at, event) in events {
        let at = at * 1_000_000;
        text.push_str(&format!("{{\"at\":{at},\"event\":{event}}}\n"));
    }
    check(text.as_bytes(), &Options::default()).unwrap_or_else(|malformed| panic!("{malformed}"))
}

fn invoke(id: u64, request: &str) -> String {
    format!("{{\"invoke\":{{\"id\":{id},\"client\":{id},\"request\":{{{request}}}}}}}")
}

fn ok(id: u64, revision: u64, response: &str) -> String {
    format!("{{\"ok\":{{\"id\":{id},\"revision\":{revision},\"response\":{{{response}}}}}}}")
}

fn fail(id: u64, failure: &str) -> String {
    format!("{{\"fail\":{{\"id\":{id},\"failure\":\"{failure}\"}}}}")
}

fn put(key: &str, value: &str, lease: i64) -> String {
    format!("\"put\":{{\"key\":\"{key}\",\"value\":\"{value}\",\"lease\":{lease}}}")
}

fn get(key: &str) -> String {
    format!("\"range\":{{\"key\":\"{key}\"}}")
}

fn kv(key: &str, value: &str, create: u64, modified: u64, version: u64, lease: i64) -> String {
    format!(
        "{{\"key\":\"{key}\",\"value\":\"{value}\",\"create_revision\":{create},\
         \"mod_revision\":{modified},\"version\":{version},\"lease\":{lease}}}"
    )
}

fn got(kv: &str) -> String {
    let count = u8::from(!kv.is_empty());
    format!("\"range\":{{\"key_values\":[{kv}],\"count\":{count}}}")
}

const WATCH_REST: &str = "{\"watch_create\":{\"watch\":1,\"client\":9,\"key\":\"a\",\
                          \"range_end\":\"c\",\"start_revision\":4}}";

const PUT: &str = "\"put\":{}";

/// How an operation of a [`sequence`] ends: revision and answer, or the failure.
type End = Result<(u64, String), &'static str>;

/// Operations one after the other, each over 10 ms: (request, revision and answer or failure).
fn sequence(operations: &[(String, End)]) -> Vec<(u64, String)> {
    let mut events = Vec::new();
    for (index, (request, end)) in operations.iter().enumerate() {
        let id = index as u64;
        events.push((id * 10, invoke(id, request)));
        match end {
            Ok((revision, response)) => events.push((id * 10 + 5, ok(id, *revision, response))),
            Err("unknown") => {}
            Err(failure) => events.push((id * 10 + 5, fail(id, failure))),
        }
    }
    events
}

fn done(revision: u64, response: &str) -> End {
    Ok((revision, response.to_owned()))
}

#[track_caller]
fn broken(report: &Report, rule: Rule, words: &str) {
    assert!(report.breaks(rule), "{report}");
    assert_eq!(report.verdict(), Verdict::Violation);
    assert!(report.to_string().contains(words), "{report}");
}

#[track_caller]
fn sound(report: &Report) {
    assert_eq!(report.verdict(), Verdict::Ok, "{report}");
}

#[test]
fn reads_and_writes() {
    let a1 = kv("a", "1", 2, 2, 1, 0);
    let two_puts = |last: (String, End)| {
        report(
            "",
            &sequence(&[
                (put("a", "1", 0), done(2, PUT)),
                (put("a", "2", 0), done(3, PUT)),
                last,
            ]),
        )
    };
    sound(&two_puts((
        get("a"),
        done(3, &got(&kv("a", "2", 2, 3, 2, 0))),
    )));
    let stale = two_puts((get("a"), done(2, &got(&a1))));
    broken(
        &stale,
        Rule::StaleRead,
        "had shown revision 3 (line 5), but was answered at revision 2",
    );
    let stale = two_puts((get("a"), done(3, &got(&a1))));
    broken(&stale, Rule::StaleRead, "instead of \"a\" = \"2\"");
    let lost = two_puts((get("a"), done(3, &got(""))));
    broken(&lost, Rule::WrongAnswer, "it did not see \"a\" = \"2\"");
    let serializable = "\"range\":{\"key\":\"a\",\"serializable\":true}".to_owned();
    sound(&two_puts((serializable.clone(), done(2, &got(&a1)))));
    let torn = two_puts((serializable, done(3, &got(&a1))));
    broken(
        &torn,
        Rule::StaleRead,
        "serializable) was answered at revision 3",
    );
    let future = two_puts((get("a"), done(4, &got(&kv("a", "3", 2, 4, 3, 0)))));
    broken(
        &future,
        Rule::Unexplained,
        "revision 4, but the history begins at 1 and has at most 2",
    );
}

#[test]
fn a_read_of_what_is_written_later() {
    let events = sequence(&[
        (get("a"), done(2, &got(&kv("a", "1", 2, 2, 1, 0)))),
        (put("a", "1", 0), done(2, PUT)),
    ]);
    broken(
        &report("", &events),
        Rule::FutureRead,
        "had shown revision 2",
    );
}

/// Two clients add one to a counter; both are told that it worked, from the same value.
#[test]
fn an_update_is_lost_or_done_twice() {
    let add = |expected: u64, value: &str| {
        format!(
            "\"txn\":{{\"compares\":[{{\"key\":\"n\",\"is\":\"equal\",\
             \"target\":{{\"mod_revision\":{expected}}}}}],\"success\":[{{{}}}]}}",
            put("n", value, 0)
        )
    };
    let worked = "\"txn\":{\"succeeded\":true,\"responses\":[{\"put\":{}}]}";
    let refused = "\"txn\":{\"succeeded\":false}";
    let run = |second: Result<(u64, String), &'static str>| {
        report(
            "",
            &sequence(&[
                (put("n", "0", 0), done(2, PUT)),
                (add(2, "1"), done(3, worked)),
                (add(2, "1"), second),
            ]),
        )
    };
    sound(&run(done(3, refused)));
    broken(
        &run(done(4, worked)),
        Rule::WrongAnswer,
        "its conditions did not hold",
    );
    broken(
        &run(done(3, worked)),
        Rule::RevisionTwice,
        "both acknowledged at revision 3",
    );
}

/// A put without answer may have happened, once, and not before it began.
#[test]
fn unknown_results_stay_open() {
    let seen = kv("a", "x", 2, 2, 1, 0);
    sound(&report(
        "",
        &sequence(&[
            (put("a", "x", 0), Err("unknown")),
            (get("a"), done(2, &got(&seen))),
        ]),
    ));
    sound(&report(
        "",
        &sequence(&[
            (put("a", "x", 0), Err("unknown")),
            (get("a"), done(1, &got(""))),
        ]),
    ));
    let twice = sequence(&[
        (put("a", "x", 0), Err("unknown")),
        (put("b", "y", 0), Err("unknown")),
        (get("a"), done(3, &got(&kv("a", "x", 2, 3, 2, 0)))),
    ]);
    broken(
        &report("", &twice),
        Rule::Unexplained,
        "nobody can have made revision",
    );
    let failed = sequence(&[
        (put("a", "x", 0), Err("lease_not_found")),
        (put("b", "y", 0), Err("unknown")),
        (get("a"), done(2, &got(&seen))),
    ]);
    broken(
        &report("", &failed),
        Rule::Unexplained,
        "nobody can have made revision 2",
    );
}

#[test]
fn compaction() {
    let old = "\"range\":{\"key\":\"a\",\"revision\":2}".to_owned();
    let compact = "\"compact\":{\"revision\":3}".to_owned();
    let run = |last: Vec<(String, End)>| {
        let mut operations = vec![
            (put("a", "1", 0), done(2, PUT)),
            (put("a", "2", 0), done(3, PUT)),
        ];
        operations.extend(last);
        report("", &sequence(&operations))
    };
    let answer = done(3, &got(&kv("a", "1", 2, 2, 1, 0)));
    let compacted = (compact, done(3, "\"compact\":{}"));
    sound(&run(vec![(old.clone(), answer.clone()), compacted.clone()]));
    sound(&run(vec![
        compacted.clone(),
        (old.clone(), Err("compacted")),
    ]));
    broken(
        &run(vec![compacted, (old.clone(), answer)]),
        Rule::Compaction,
        "although 3 had been",
    );
    broken(
        &run(vec![(old, Err("compacted"))]),
        Rule::Compaction,
        "nobody had asked to compact",
    );
}

/// Two keys in one revision, two more puts, and a watch over all.
fn watched(filters: &str, messages: &[String]) -> Report {
    let both = "\"txn\":{\"success\":[{\"put\":{\"key\":\"a\",\"value\":\"1\"}},\
                {\"put\":{\"key\":\"b\",\"value\":\"1\"}}]}";
    let done_both = "\"txn\":{\"succeeded\":true,\"responses\":[{\"put\":{}},{\"put\":{}}]}";
    let mut events = vec![(
        0,
        format!(
            "{{\"watch_create\":{{\"watch\":1,\"client\":9,\"key\":\"a\",\"range_end\":\"c\",\
             \"start_revision\":2,\"prev_kv\":true,\"filters\":[{filters}]}}}}"
        ),
    )];
    events.extend(sequence(&[
        (both.to_owned(), done(2, done_both)),
        (put("a", "2", 0), done(3, PUT)),
        (put("a", "3", 0), done(4, PUT)),
        (
            "\"compact\":{\"revision\":3}".to_owned(),
            done(4, "\"compact\":{}"),
        ),
    ]));
    for message in messages {
        events.push((100, message.clone()));
    }
    report("", &events)
}

fn message(revision: u64, events: &[&str]) -> String {
    format!(
        "{{\"watch_message\":{{\"watch\":1,\"revision\":{revision},\"events\":[{}]}}}}",
        events.join(",")
    )
}

#[test]
fn watches() {
    let event = |kv: &str, previous: &str| format!("{{\"put\":{{\"kv\":{kv}{previous}}}}}");
    let previous = |kv: &str| format!(",\"prev_kv\":{kv}");
    let (a2, b2) = (kv("a", "1", 2, 2, 1, 0), kv("b", "1", 2, 2, 1, 0));
    let (a3, a4) = (kv("a", "2", 2, 3, 2, 0), kv("a", "3", 2, 4, 3, 0));
    let (ea, eb) = (event(&a2, ""), event(&b2, ""));
    let (e3, e4) = (event(&a3, &previous(&a2)), event(&a4, &previous(&a3)));
    let progress = "{\"watch_progress\":{\"watch\":1,\"revision\":4}}".to_owned();
    let all = message(4, &[&ea, &eb, &e3, &e4]);
    sound(&watched(
        "",
        &[
            message(2, &[&ea, &eb]),
            message(4, &[&e3, &e4]),
            progress.clone(),
        ],
    ));
    let split = watched("", &[message(2, &[&ea]), message(4, &[&eb, &e3, &e4])]);
    broken(&split, Rule::WatchSplit, "revision 2 came in two messages");
    let missing = watched("", &[message(4, &[&ea, &eb, &e4])]);
    broken(
        &missing,
        Rule::WatchMissing,
        "never delivered that revision 3 put \"a\"",
    );
    let torn = watched("", &[message(4, &[&ea, &e3])]);
    broken(
        &torn,
        Rule::WatchMissing,
        "while other events of that revision came",
    );
    let forgotten = watched("", &[message(2, &[&ea, &eb]), progress.clone()]);
    broken(&forgotten, Rule::WatchMissing, "promised all up to 4");
    let twice = watched("", &[all.clone(), message(4, &[&e4])]);
    broken(
        &twice,
        Rule::WatchDuplicate,
        "\"a\" at revision 4 came twice",
    );
    let back = watched("", &[message(4, &[&ea, &eb, &e4, &e3])]);
    broken(
        &back,
        Rule::WatchOrder,
        "revision 3 (\"a\") came after one of revision 4",
    );
    let late = watched(
        "",
        &[
            message(2, &[&ea, &eb]),
            progress.clone(),
            message(4, &[&e3, &e4]),
        ],
    );
    broken(&late, Rule::WatchProgress, "after all up to 4 was promised");
    let early = watched("", &[message(3, &[&ea, &eb, &e3, &e4])]);
    broken(
        &early,
        Rule::WatchProgress,
        "a message at revision 3 holds an event of revision 4",
    );
    let wrong = event(&a4, &previous(&a2));
    let wrong = watched("", &[message(4, &[&ea, &eb, &e3, &wrong])]);
    broken(
        &wrong,
        Rule::WatchPrevious,
        "before revision 4 it delivered",
    );
    let lacking = watched("", &[message(4, &[&ea, &eb, &e3, &event(&a4, "")])]);
    broken(&lacking, Rule::WatchPrevious, "it delivered none");
    let forged = event(&kv("a", "9", 2, 4, 3, 0), &previous(&a3));
    let forged = watched("", &[message(4, &[&ea, &eb, &e3, &forged])]);
    broken(
        &forged,
        Rule::WatchWrongEvent,
        "it delivered that revision 4 put \"a\": \"9\"",
    );
    let filtered = watched("\"put\"", &[message(2, &[&ea, &eb])]);
    broken(&filtered, Rule::WatchFilter, "that was filtered out");
    sound(&watched("\"put\"", &[progress]));
    let cancel = |revision: u64| {
        format!("{{\"watch_cancelled\":{{\"watch\":1,\"compact_revision\":{revision}}}}}")
    };
    sound(&watched("", &[cancel(3)]));
    broken(
        &watched("", &[cancel(4)]),
        Rule::WatchCancel,
        "nobody had asked for",
    );
    broken(
        &watched("", &[all.clone(), cancel(3)]),
        Rule::WatchCancel,
        "the next event it needed",
    );
    broken(
        &watched("", &[cancel(3), all.clone()]),
        Rule::WatchCancel,
        "another message came",
    );
    let resume = "{\"watch_resume\":{\"watch\":1,\"start_revision\":3}}".to_owned();
    let lost = "{\"watch_lost\":{\"watch\":1}}".to_owned();
    let first = message(2, &[&ea, &eb]);
    sound(&watched(
        "",
        &[
            first.clone(),
            lost.clone(),
            resume.clone(),
            message(4, &[&e3, &e4]),
        ],
    ));
    let gap = watched(
        "",
        &[
            first.clone(),
            lost.clone(),
            resume.clone(),
            message(4, &[&e4]),
        ],
    );
    broken(
        &gap,
        Rule::WatchMissing,
        "from 3 never delivered that revision 3",
    );
    let again = watched("", &[first, lost, resume, all]);
    broken(&again, Rule::WatchStart, "the watch begins at 3");
}

fn granted(ttl: i64) -> Vec<(u64, String)> {
    vec![
        (
            0,
            invoke(0, &format!("\"lease_grant\":{{\"lease\":7,\"ttl\":{ttl}}}")),
        ),
        (
            5,
            ok(
                0,
                1,
                &format!("\"lease_grant\":{{\"lease\":7,\"ttl\":{ttl}}}"),
            ),
        ),
        (10, invoke(1, &put("a", "1", 7))),
        (15, ok(1, 2, PUT)),
        (20, invoke(2, &put("b", "1", 7))),
        (25, ok(2, 3, PUT)),
    ]
}

fn with(mut events: Vec<(u64, String)>, more: &[(u64, String)]) -> Vec<(u64, String)> {
    events.extend_from_slice(more);
    events
}

#[test]
fn leases() {
    let bounds = "\"lease_late_ns\":2000000000";
    let question = "\"lease_time_to_live\":{\"lease\":7}";
    let gone = "\"lease_time_to_live\":{\"ttl\":-1}";
    let there = "\"lease_time_to_live\":{\"ttl\":3,\"granted_ttl\":5}";
    let ask = |at: u64, answer: &str, revision: u64| {
        report(
            bounds,
            &with(
                granted(5),
                &[(at, invoke(3, question)), (at + 5, ok(3, revision, answer))],
            ),
        )
    };
    sound(&ask(1_000, there, 3));
    sound(&ask(5_500, gone, 4));
    sound(&ask(6_000, there, 3));
    broken(
        &ask(1_000, gone, 3),
        Rule::LeaseEarly,
        "not before 5.000000000 s",
    );
    broken(
        &ask(8_000, there, 3),
        Rule::LeaseLate,
        "must be gone by 7.005000000 s",
    );
    broken(
        &ask(4_994, gone, 3),
        Rule::LeaseEarly,
        "lease 7 was gone at 4.999000000 s",
    );
    // A renewal that was acknowledged counts from its invocation.
    let renewed = with(
        granted(5),
        &[
            (4_000, invoke(3, "\"lease_keep_alive\":{\"lease\":7}")),
            (4_005, ok(3, 3, "\"lease_keep_alive\":{\"ttl\":5}")),
            (8_000, invoke(4, question)),
            (8_005, ok(4, 3, gone)),
        ],
    );
    broken(
        &report(bounds, &renewed),
        Rule::LeaseEarly,
        "operation 3 (client 3, keep lease 7 alive)",
    );
    // The keys are gone, seen by a watch, and nobody deleted them.
    let vanish = |at: u64, events: &str| {
        let watch = WATCH_REST;
        report(
            bounds,
            &with(
                granted(5),
                &[
                    (30, watch.to_owned()),
                    (
                        at,
                        format!(
                            "{{\"watch_message\":{{\"watch\":1,\"revision\":5,\
                             \"events\":[{events}]}}}}"
                        ),
                    ),
                ],
            ),
        )
    };
    let deletes = |a: u64, b: u64| {
        format!(
            "{{\"delete\":{{\"key\":\"a\",\"mod_revision\":{a}}}}},\
             {{\"delete\":{{\"key\":\"b\",\"mod_revision\":{b}}}}}"
        )
    };
    sound(&report(bounds, &with(granted(5), &[])));
    broken(&vanish(2_000, &deletes(4, 4)), Rule::Unexplained, "at most");
}

#[test]
fn keys_and_lease_vanish_together() {
    let bounds = "\"lease_late_ns\":2000000000";
    let revoke = |revision: u64| {
        [
            (1_000, invoke(3, "\"lease_revoke\":{\"lease\":7}")),
            (1_005, ok(3, revision, "\"lease_revoke\":{}")),
        ]
    };
    let read = |at: u64, revision: u64, answer: &str| {
        [
            (at, invoke(4, &get("a"))),
            (at + 5, ok(4, revision, &got(answer))),
        ]
    };
    let a = kv("a", "1", 2, 2, 1, 7);
    let revoked = with(granted(5), &revoke(4));
    sound(&report(bounds, &with(revoked.clone(), &read(2_000, 4, ""))));
    let kept = with(with(granted(5), &revoke(3)), &read(2_000, 3, &a));
    broken(&report(bounds, &kept), Rule::LeaseKeys, "found it alive");
    // One key is gone, the other is not.
    let other = [
        (3_000, invoke(5, &get("b"))),
        (3_005, ok(5, 4, &got(&kv("b", "1", 3, 3, 1, 7)))),
    ];
    let half = with(with(revoked, &read(2_000, 4, "")), &other);
    assert_eq!(report(bounds, &half).verdict(), Verdict::Violation);
    // Gone at the right time by time alone, at the wrong time by time alone.
    let expired = |at: u64| report(bounds, &with(granted(5), &read(at, 4, "")));
    sound(&expired(5_500));
    let watch = [
        (30, WATCH_REST.to_owned()),
        (
            3_000,
            "{\"watch_message\":{\"watch\":1,\"revision\":4,\
          \"events\":[{\"delete\":{\"key\":\"a\",\"mod_revision\":4}},\
          {\"delete\":{\"key\":\"b\",\"mod_revision\":4}}]}}"
                .to_owned(),
        ),
    ];
    let early = report(bounds, &with(granted(5), &watch));
    broken(
        &early,
        Rule::LeaseEarly,
        "deleted its keys, and no request did",
    );
}

#[test]
fn locks() {
    let lock = |id: u64, lease: i64| {
        invoke(
            id,
            &format!("\"lock\":{{\"name\":\"m\",\"lease\":{lease}}}"),
        )
    };
    let locked = |id: u64, revision: u64, lease: i64, fence: u64| {
        ok(
            id,
            revision,
            &format!("\"lock\":{{\"key\":\"m/{lease}\",\"fence\":{fence}}}"),
        )
    };
    let grant = |id: u64, at: u64, lease: i64| {
        let body = format!("\"lease_grant\":{{\"lease\":{lease},\"ttl\":5}}");
        [(at, invoke(id, &body)), (at + 1, ok(id, 1, &body))]
    };
    let leases = with(grant(0, 0, 7).to_vec(), &grant(1, 2, 8));
    let unlock = [
        (200, invoke(4, "\"unlock\":{\"key\":\"m/7\"}")),
        (205, ok(4, 4, "\"unlock\":{}")),
    ];
    let first = [(10, lock(2, 7)), (20, locked(2, 2, 7, 2))];
    // The other waits, and gets it after it was given back.
    let turns = with(
        with(with(leases.clone(), &first), &[(30, lock(3, 8))]),
        &with(unlock.to_vec(), &[(210, locked(3, 4, 8, 3))]),
    );
    sound(&report("", &turns));
    let both = with(
        with(leases.clone(), &first),
        &[(30, lock(3, 8)), (40, locked(3, 3, 8, 3))],
    );
    broken(&report("", &both), Rule::LockHolders, "while operation 2");
    // By time the first lease may be over: then the second may hold it.
    let over = with(
        with(leases, &first),
        &[(30, lock(3, 8)), (5_500, locked(3, 4, 8, 3))],
    );
    sound(&report("", &over));
}

/// Two leases, and what an election of one name sees: requests and their answers.
struct Election;

impl Election {
    fn leases() -> Vec<(u64, String)> {
        let grant = |id: u64, at: u64, lease: i64| {
            let body = format!("\"lease_grant\":{{\"lease\":{lease},\"ttl\":5}}");
            [(at, invoke(id, &body)), (at + 1, ok(id, 1, &body))]
        };
        with(grant(0, 0, 7).to_vec(), &grant(1, 2, 8))
    }

    fn campaign(id: u64, lease: i64) -> String {
        let body = format!("\"campaign\":{{\"name\":\"e\",\"lease\":{lease},\"value\":\"v\"}}");
        invoke(id, &body)
    }

    fn won(id: u64, revision: u64, lease: i64, fence: u64) -> String {
        let body = format!("\"campaign\":{{\"key\":\"e/{lease}\",\"fence\":{fence}}}");
        ok(id, revision, &body)
    }

    /// The first lease leads with fence 2; then this happens.
    fn after(events: &[(u64, String)]) -> Report {
        let first = [
            (10, Election::campaign(2, 7)),
            (20, Election::won(2, 2, 7, 2)),
        ];
        report("", &with(with(Election::leases(), &first), events))
    }

    fn resigns(left: bool) -> [(u64, String); 2] {
        let answer = format!("\"resign\":{{\"left\":{left}}}");
        let revision = if left { 4 } else { 3 };
        [
            (200, invoke(4, "\"resign\":{\"key\":\"e/7\",\"fence\":2}")),
            (205, ok(4, revision, &answer)),
        ]
    }
}

#[test]
fn one_leads_at_a_time() {
    let second = (30, Election::campaign(3, 8));
    let turns = [
        vec![second.clone()],
        Election::resigns(true).to_vec(),
        vec![(210, Election::won(3, 4, 8, 3))],
    ];
    sound(&Election::after(&turns.concat()));
    let both = [second.clone(), (40, Election::won(3, 3, 8, 3))];
    broken(
        &Election::after(&both),
        Rule::ElectionLeaders,
        "the leadership of \"e\" was given to operation 3",
    );
    // Its key is still there, and it was told that it is not.
    let kept = [
        vec![second.clone()],
        Election::resigns(false).to_vec(),
        vec![(210, Election::won(3, 3, 8, 3))],
    ];
    broken(
        &Election::after(&kept.concat()),
        Rule::WrongAnswer,
        "resign",
    );
    // By time the first lease may be over, and the second may lead. But not with a lower fence.
    let over = |fence| {
        [
            (5_400, Election::campaign(3, 8)),
            (5_500, Election::won(3, 4, 8, fence)),
        ]
    };
    sound(&Election::after(&over(4)));
    assert_eq!(Election::after(&over(2)).verdict(), Verdict::Violation);
}

#[test]
fn who_leads_is_said_and_only_who_leads_may_say_more() {
    let leader = |revision: u64, kv: &str| {
        [
            (300, invoke(5, "\"leader\":{\"name\":\"e\"}")),
            (305, ok(5, revision, &format!("\"leader\":{{{kv}}}"))),
        ]
    };
    let shown = |key: &str, value: &str, modified, version| {
        let lease = key[2..].parse().expect("a lease");
        format!("\"leader\":{}", kv(key, value, 2, modified, version, lease))
    };
    sound(&Election::after(&leader(2, &shown("e/7", "v", 2, 1))));
    let nobody = Election::after(&leader(2, ""));
    broken(&nobody, Rule::WrongAnswer, "ask who leads \"e\"");
    let proclaim = |fence: u64, revision: u64, leads: bool| {
        let asked = format!(
            "\"proclaim\":{{\"key\":\"e/7\",\"fence\":{fence},\"lease\":7,\"value\":\"w\"}}"
        );
        let answer = format!("\"proclaim\":{{\"leads\":{leads}}}");
        [(100, invoke(3, &asked)), (105, ok(3, revision, &answer))]
    };
    let said = with(
        proclaim(2, 3, true).to_vec(),
        &leader(3, &shown("e/7", "w", 3, 2)),
    );
    sound(&Election::after(&said));
    let forgotten = with(
        proclaim(2, 3, true).to_vec(),
        &leader(3, &shown("e/7", "v", 2, 1)),
    );
    assert_eq!(Election::after(&forgotten).verdict(), Verdict::Violation);
    // Another generation of the key is another leader.
    sound(&Election::after(&proclaim(1, 2, false)));
    let stranger = Election::after(&proclaim(1, 3, true));
    broken(&stranger, Rule::WrongAnswer, "proclaim \"e/7\"");
    let refused = Election::after(&proclaim(2, 2, false));
    broken(&refused, Rule::WrongAnswer, "proclaim \"e/7\"");
}

#[test]
fn lists_show_the_leases_that_there_are() {
    let list = |at: u64, leases: &str| {
        let events = [
            (at, invoke(9, "\"lease_list\":{}")),
            (
                at + 5,
                ok(9, 1, &format!("\"lease_list\":{{\"leases\":[{leases}]}}")),
            ),
        ];
        report(
            "\"lease_late_ns\":2000000000",
            &with(Election::leases(), &events),
        )
    };
    sound(&list(100, "8,7"));
    sound(&list(5_100, ""));
    broken(
        &list(100, "7"),
        Rule::LeaseEarly,
        "list leases) did not find it",
    );
    broken(
        &list(9_000, "7"),
        Rule::LeaseLate,
        "list leases) found it alive",
    );
    broken(
        &list(100, "7,8,9"),
        Rule::LeaseAnswer,
        "lease 9, which nobody was granted",
    );
    broken(&list(100, "7,8,7"), Rule::LeaseAnswer, "twice");
}
