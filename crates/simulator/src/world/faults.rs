//! How each planned fault strikes, and how all of them end.

use std::time::Duration;

use base::{Instant, Random};
use journal::disk::File;
use node::{Call, Input, rehearsal};

use super::World;
use super::event::World as Happening;
use super::host::{Doom, Host};
use super::operators::Task;
use crate::disk::{Crash, Disk};
use crate::invariants::refusals::{Injuries, Reasons};
use crate::marks::Mark;
use crate::scenario::{Fault, Micros, Shape, Who};
use crate::trace::Kind;

fn micros(time: Micros) -> Duration {
    Duration::from_micros(time)
}

impl World {
    /// A planned fault strikes.
    pub(crate) fn strike(&mut self, index: usize) {
        if self.is_calm {
            return;
        }
        let fault = self.scenario.faults[index].fault;
        let (at, until) = (self.elapsed(), time_of(&fault));
        let host = whose(&fault).filter(|host| *host < self.hosts.len());
        let kind = Kind::Fault { host, time: until };
        self.trace.line(at, kind, || {
            serde_json::to_string(&fault).expect("plain data has a JSON form")
        });
        self.trace.mix(index as u64);
        *self.struck.entry(fault.family()).or_default() += 1;
        match fault {
            Fault::Partition { shape, time } => {
                self.cut(index, shape);
                self.schedule(micros(time), Happening::Heal(index));
            }
            Fault::FrozenLeader { time } => {
                self.whom(Who::Leader).into_iter().for_each(|host| {
                    self.hosts[host].clock.freeze(self.now, micros(time));
                    self.set_alarm(host);
                });
                self.cut(index, Shape::Isolated(Who::Leader));
                self.schedule(micros(time), Happening::Heal(index));
            }
            Fault::Transfer { to } => self.transfer(to),
            Fault::Rejoin { host } => self.begin_task(Task::Rejoin, host),
            Fault::Replace { host } => self.begin_task(Task::Replace, host),
            Fault::Wipe { host } => self.wipe_and_restart(host),
            Fault::Upgrade { host, down } => self.change_build(host, rehearsal::LEVEL, down),
            Fault::Downgrade { host, down } => self.change_build(host, state::LEVEL_MAX, down),
            fault => self.strike_hosts(fault),
        }
    }

    fn strike_hosts(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { who, .. }
            | Fault::Stop { who, .. }
            | Fault::Pause { who, .. }
            | Fault::SlowProcessor { who, .. }
            | Fault::BreakConnections { who } => {
                let hosts = self.whom(who);
                hosts
                    .into_iter()
                    .for_each(|host| self.strike_process(host, fault));
            }
            Fault::ClockJump { who, .. }
            | Fault::ClockFreeze { who, .. }
            | Fault::ClockDrift { who, .. }
            | Fault::WallJump { who, .. } => {
                let hosts = self.whom(who);
                hosts
                    .into_iter()
                    .for_each(|host| self.strike_clock(host, fault));
            }
            Fault::DiskStall { who, .. }
            | Fault::JournalStall { who, .. }
            | Fault::DiskSlow { who, .. }
            | Fault::DiskFull { who, .. }
            | Fault::SyncError { who } => {
                let hosts = self.whom(who);
                hosts
                    .into_iter()
                    .for_each(|host| self.strike_disk(host, fault));
            }
            Fault::SyncLies { host, .. }
            | Fault::LostWrite { host }
            | Fault::BitRot { host, .. }
            | Fault::UnreadableSector { host, .. }
            | Fault::Misdirected { host, .. } => self.damage(host, fault),
            _ => {}
        }
    }

    fn strike_process(&mut self, host: usize, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Kill {
                crash,
                after_outputs,
                down,
                ..
            } => {
                self.hosts[host].doom = Some(Doom {
                    after_outputs,
                    crash,
                    down,
                });
            }
            Fault::Stop { down, .. } => {
                self.deliver(host, Input::Shutdown);
                let patience = self.hosts[host].config.timing.shutdown_patience;
                self.schedule(micros(down) + patience, Happening::Start(host));
            }
            Fault::Pause { time, .. } => {
                self.hosts[host].paused_until = now + micros(time);
                self.schedule(micros(time), Happening::Resume(host));
            }
            Fault::SlowProcessor { times, time, .. } => {
                self.hosts[host].slow = (times, now + micros(time));
            }
            Fault::BreakConnections { .. } => self.break_connections(host),
            _ => {}
        }
    }

    fn strike_clock(&mut self, host: usize, fault: Fault) {
        let now = self.now;
        let clock = &mut self.hosts[host].clock;
        match fault {
            Fault::ClockJump { by, .. } => clock.jump(now, micros(by)),
            Fault::ClockFreeze { time, .. } => clock.freeze(now, micros(time)),
            Fault::ClockDrift { parts, .. } => clock.set_drift(now, parts),
            Fault::WallJump { by_ms, .. } => clock.set_wall(by_ms),
            _ => {}
        }
        self.set_alarm(host);
    }

    fn strike_disk(&mut self, host: usize, fault: Fault) {
        let now = self.now;
        let ailments = &mut self.hosts[host].disk.ailments;
        match fault {
            Fault::DiskStall { time, .. } => ailments.stalled_until = now + micros(time),
            Fault::JournalStall { time, .. } => {
                ailments.journal_stalled_until = now + micros(time);
            }
            Fault::DiskSlow { times, time, .. } => {
                ailments.slow = Some((times, now + micros(time)))
            }
            Fault::DiskFull { time, .. } => {
                ailments.full_until = now + micros(time);
                self.hosts[host].injuries.was_full = true;
            }
            Fault::SyncError { .. } => ailments.fails_next_sync = true,
            _ => {}
        }
    }

    fn damage(&mut self, host: usize, fault: Fault) {
        // What a checksum shows can be refused anywhere; what it does not show, only on a minority.
        let shows = matches!(fault, Fault::BitRot { .. } | Fault::UnreadableSector { .. });
        let is_beyond = self.scenario.beyond && shows && host < self.hosts.len();
        if !self.scenario.unsound.contains(&host) && !is_beyond {
            return;
        }
        let now = self.now;
        let host = &mut self.hosts[host];
        match fault {
            Fault::SyncLies { time, .. } => {
                host.disk.ailments.lies_until = now + micros(time);
                host.injuries.has_lied = true;
            }
            Fault::LostWrite { .. } => {
                host.disk.ailments.loses_next_write = true;
                host.injuries.has_lied = true;
            }
            Fault::BitRot { draw, .. } => {
                rot(host, draw, |disk, file, sector, random| {
                    disk.flip(file, sector, random);
                });
            }
            Fault::UnreadableSector { draw, .. } => {
                rot(host, draw, |disk, file, sector, _| {
                    disk.make_unreadable(file, sector);
                });
            }
            Fault::Misdirected { draw, .. } => {
                rot(host, draw, |disk, file, sector, random| {
                    if let Some(from) = disk.used_sector(file, random) {
                        disk.misdirect(file, from, sector);
                    }
                });
            }
            _ => {}
        }
    }

    /// A host whose disk was damaged is as good as the others once its node has been started since,
    /// and nothing of it is in doubt. What a disk has lied about, no node can notice.
    pub(crate) fn mend(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let running = host.node.as_ref().and_then(node::Node::running);
        let is_whole = running.is_some_and(|running| {
            !running.is_doubtful() && running.groups().all(|(_, group)| !group.is_in_doubt())
        });
        if is_whole && host.life > host.hurt_in && !host.injuries.has_lied {
            host.reasons.mended = host.reasons.damaged;
        }
    }

    /// Whether a host is to come back by itself, whatever was done to its disk.
    pub(crate) fn mends_itself(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        let Reasons {
            damaged,
            mended,
            alone,
            removed,
            wiped,
            ..
        } = host.reasons;
        let is_alone = alone || self.holds_alone(index);
        damaged && !mended && !is_alone && !removed && !wiped && !host.injuries.has_lied
    }

    /// From its next start on, the node of this host is of a build that knows this level.
    fn change_build(&mut self, host: usize, level: u32, down: Micros) {
        if host >= self.hosts.len() {
            return;
        }
        self.hosts[host].config.limits.state.level_max = level;
        let who = Who::Host(host);
        self.strike_process(host, Fault::Stop { who, down });
    }

    fn wipe_and_restart(&mut self, host: usize) {
        // Hosts that all are empty would form a cluster anew, and rightly so.
        let emptied = self.hosts.iter().filter(|host| host.reasons.wiped).count();
        let is_beyond = self.scenario.beyond
            && emptied + 1 < self.hosts.len()
            && host < self.hosts.len()
            && !self.operators.is_busy_with(host);
        if !self.may_wipe(host) && !is_beyond {
            return;
        }
        self.wipe(host);
        self.schedule(Duration::from_millis(300), Happening::Start(host));
    }

    /// A folder may be emptied only on a host whose loss is allowed for.
    pub(crate) fn may_wipe(&self, host: usize) -> bool {
        self.scenario.unsound.contains(&host) && !self.operators.is_busy_with(host)
    }

    /// The node dies and its folder with it.
    pub(crate) fn wipe(&mut self, host: usize) {
        self.kill(host, Crash::Power);
        self.hosts[host].disk = Disk::default();
        self.hosts[host].injuries = Injuries::default();
        self.hosts[host].reasons.wiped = true;
        // Whoever forms a cluster is the first to belong to it. If it is empty again before the
        // others have heard of that, they may form another one with it, and rightly so.
        if !self.hosts.iter().any(super::host::Host::is_member) {
            self.invariants.begin_anew();
        }
    }

    fn transfer(&mut self, to: Option<usize>) {
        if let Some(through) = self.leader() {
            let to = to.map(super::host::name);
            self.call(through, Call::TransferLeadership { to });
            self.marks.reach(Mark::LeadershipTransferred);
        }
    }

    /// All faults end. Hosts that are given up stay as they are, and alone.
    pub(crate) fn calm(&mut self, given_up: &[usize]) {
        self.is_calm = true;
        let now = self.now;
        self.heal_everything();
        self.network.calm();
        for index in 0..self.hosts.len() {
            if given_up.contains(&index) {
                self.give_up(index);
                continue;
            }
            let host = &mut self.hosts[index];
            host.disk.ailments = crate::disk::Ailments::default();
            host.clock.set_drift(now, 0);
            host.slow = (1, Instant(0));
            host.doom = None;
            host.refusals = 0;
            if host.is_paused(now) {
                host.paused_until = now;
                self.pass(index);
            }
            for lane in [
                journal::disk::Lane::Journal,
                journal::disk::Lane::Background,
            ] {
                self.serve_disk(index, lane);
            }
            self.start(index);
            self.set_alarm(index);
        }
        for space in &mut self.spaces {
            space.clients.recording.calm(now);
        }
        let at = self.elapsed();
        self.trace.line(at, Kind::Run, || {
            format!("faults end; left out: {given_up:?}")
        });
    }

    /// A host outside the core: dead, cut off, or healthy, whichever its state draws.
    fn give_up(&mut self, index: usize) {
        match self.hosts[index].disk_random.below(2) {
            0 => self.kill(index, Crash::Power),
            _ => self.cut(usize::MAX - index, Shape::Isolated(Who::Host(index))),
        }
        self.hosts[index].is_given_up = true;
    }
}

/// Damages a used sector of a file that draws it, if there is one.
fn rot(host: &mut Host, draw: u64, damage: impl FnOnce(&mut Disk, File, usize, &mut Random)) {
    let mut random = Random::from_seed(draw);
    let files: Vec<File> = host
        .disk
        .list()
        .into_iter()
        .map(|(file, _)| file)
        .filter(|file| matches!(file, File::Segment(_) | File::Checkpoint(..)))
        .collect();
    if files.is_empty() {
        return;
    }
    let file = files[random.below(files.len() as u64) as usize];
    if let Some(sector) = host.disk.used_sector(file, &mut random) {
        damage(&mut host.disk, file, sector, &mut random);
        host.reasons.damaged = true;
        host.reasons.mended = false;
        host.hurt_in = host.life;
    }
}

/// How long a fault lasts, for the timeline.
fn time_of(fault: &Fault) -> Duration {
    match fault {
        Fault::Kill { down, .. }
        | Fault::Stop { down, .. }
        | Fault::Upgrade { down, .. }
        | Fault::Downgrade { down, .. } => micros(*down),
        Fault::Pause { time, .. }
        | Fault::SlowProcessor { time, .. }
        | Fault::Partition { time, .. }
        | Fault::FrozenLeader { time }
        | Fault::ClockFreeze { time, .. }
        | Fault::DiskStall { time, .. }
        | Fault::JournalStall { time, .. }
        | Fault::DiskSlow { time, .. }
        | Fault::DiskFull { time, .. }
        | Fault::SyncLies { time, .. } => micros(*time),
        _ => Duration::ZERO,
    }
}

/// On which one host a fault strikes, if that is known before.
fn whose(fault: &Fault) -> Option<usize> {
    match fault {
        Fault::Replace { host }
        | Fault::Wipe { host }
        | Fault::SyncLies { host, .. }
        | Fault::LostWrite { host }
        | Fault::BitRot { host, .. }
        | Fault::UnreadableSector { host, .. }
        | Fault::Misdirected { host, .. }
        | Fault::Rejoin { host }
        | Fault::Upgrade { host, .. }
        | Fault::Downgrade { host, .. } => Some(*host),
        Fault::Kill {
            who: Who::Host(host),
            ..
        }
        | Fault::Pause {
            who: Who::Host(host),
            ..
        }
        | Fault::Stop {
            who: Who::Host(host),
            ..
        } => Some(*host),
        _ => None,
    }
}
