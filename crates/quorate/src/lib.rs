//! The command line of Quorate, and what it takes to run a cluster of processes on one machine.
//!
//! ```text
//!   main ──> command_line ──> serve       a node, by the server library
//!                        ├──> operator    status, member: ask a running node's admin listener
//!                        ├──> doctor      what is wrong with a cluster, and what to do
//!                        ├──> snapshot    a cluster's data as one file, a new cluster from it
//!                        ├──> migrate     a live etcd copied into a new cluster
//!                        ├──> demo        a cluster of processes that loses its leader
//!                        │    └> chaos    one that is hurt in many ways, heals, and is judged
//!                        ├──> as_etcd     a node, by etcd's flags and under its name
//!                        ├──> cert        a private authority, certificates
//!                        ├──> record      clients at work, and a history for the checker
//!                        └──> bench       a load on servers, and how they bear it
//!
//!   local    processes that can be killed, paused and started again ┐ shared by the
//!   load     clients that write and keep books                      │ demonstration, the
//!   admin    what a node says of itself                             ┘ tests and measurements
//! ```
//!
//! It reaches a cluster only through its protocols, as any program of a user does: what is
//! possible here is possible for everyone.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program: it has clocks, files, sockets, processes, and locks in its tools"
)]

// First: the others say what they say by its macros.
#[macro_use]
mod output;

mod access;
pub mod admin;
mod as_etcd;
mod bench;
mod cert;
mod chaos;
mod command_line;
mod demo;
mod doctor;
mod group;
mod keyspace;
pub mod load;
pub mod local;
mod migrate;
mod operator;
mod placement;
mod record;
mod run;
mod serve;
mod snapshot;
mod table;

pub use run::run;
