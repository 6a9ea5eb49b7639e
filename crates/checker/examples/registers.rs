//! Prints random histories of registers, good and corrupted, each with our verdict, as JSON lines:
//! the input of `tests/porcupine`, where Porcupine judges the same histories.
//!
//! `cargo run --package quorate-checker --example registers -- [HISTORIES]` (400)

#![allow(clippy::print_stdout, clippy::disallowed_methods)] // it talks to another program

use base::Random;
use checker::linearizability::register::{Action, Answer, Register, RegisterOperation};
use checker::linearizability::{Call, Outcome, judge_parts};
use serde_json::{Value, json};

type RegisterCall = Call<RegisterOperation, Answer>;

/// Clients that ask, a store that does one thing at a time, answers that come late or never.
fn history(random: &mut Random) -> Vec<RegisterCall> {
    let (clients, keys) = (2 + random.below(6), 1 + random.below(3));
    let mut planned: Vec<(u64, RegisterCall)> = Vec::new();
    let mut clocks = vec![0; clients as usize];
    for _ in 0..10 + random.below(60) {
        let clock = &mut clocks[random.below(clients) as usize];
        // Odd and even, and thousands of each: no two moments are the same.
        let invoked = *clock + 1 + random.below(1_000_000);
        let effect = invoked + 1 + random.below(1_000_000);
        let ended = effect + 1 + random.below(1_000_000);
        *clock = ended;
        let action = match random.below(4) {
            0 => Action::Write(random.below(5) as i64),
            1 => Action::CompareAndSet {
                from: random.below(5) as i64,
                to: random.below(5) as i64,
            },
            _ => Action::Read,
        };
        let operation = RegisterOperation {
            key: random.below(keys) as u32,
            action,
        };
        let call = Call {
            operation,
            result: None,
            invoked,
            ended,
        };
        planned.push((effect, call));
    }
    planned.sort_by_key(|(effect, _)| *effect);
    let mut registers = vec![0; keys as usize];
    for (_, call) in &mut planned {
        let lost = random.chance(0.08);
        if lost && random.chance(0.5) {
            continue;
        }
        let register = &mut registers[call.operation.key as usize];
        let answer = match call.operation.action {
            Action::Read => Answer::Value(*register),
            Action::Write(value) => {
                *register = value;
                Answer::Written
            }
            Action::CompareAndSet { from, to } => {
                let set = *register == from;
                if set {
                    *register = to;
                }
                Answer::Set(set)
            }
        };
        call.result = Some(answer).filter(|_| !lost);
    }
    planned.into_iter().map(|(_, call)| call).collect()
}

/// Changes one answer; the history may stay linearizable all the same.
fn corrupt(random: &mut Random, calls: &mut [RegisterCall]) {
    let place = random.below(calls.len() as u64) as usize;
    match &mut calls[place].result {
        Some(Answer::Value(value)) => *value = random.below(5) as i64,
        Some(Answer::Set(set)) => *set = !*set,
        Some(Answer::Written) | None => {}
    }
}

fn shown(call: &RegisterCall) -> Value {
    let (kind, one, other) = match call.operation.action {
        Action::Read => ("read", 0, 0),
        Action::Write(value) => ("write", value, 0),
        Action::CompareAndSet { from, to } => ("cas", from, to),
    };
    let (value, set) = match call.result {
        Some(Answer::Value(value)) => (value, false),
        Some(Answer::Set(set)) => (0, set),
        Some(Answer::Written) | None => (0, false),
    };
    json!({
        "key": call.operation.key, "kind": kind, "one": one, "other": other,
        "unknown": call.result.is_none(), "value": value, "set": set,
        "invoked": call.invoked, "ended": call.ended,
    })
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(400, |count| count.parse().expect("a number of histories"));
    for seed in 0..count {
        let mut random = Random::from_seed(seed);
        let mut calls = history(&mut random);
        let corrupted = seed % 2 == 1;
        for _ in 0..if corrupted { 1 + random.below(3) } else { 0 } {
            corrupt(&mut random, &mut calls);
        }
        let mut steps = 10_000_000;
        let outcome = judge_parts(
            &Register,
            &calls,
            |operation| vec![operation.key],
            &mut steps,
        );
        let ours = match outcome {
            Outcome::Linearizable(_) => "ok",
            Outcome::Impossible { .. } => "violation",
            Outcome::Undecided => "undecided",
        };
        let calls: Vec<Value> = calls.iter().map(shown).collect();
        println!(
            "{}",
            json!({"seed": seed, "corrupted": corrupted, "ours": ours, "calls": calls})
        );
    }
}
