//! What becomes of a claim: which of two wins, and what this member answers to claims about itself.
//!
//! ```text
//!   same incarnation:   alive  <  suspect  <  dead, left        a higher incarnation wins always
//! ```
//!
//! (SWIM, section 4.2.) A member denies what is said of it by a higher incarnation. Claims about
//! members that nobody has introduced are dropped: a rumour makes no member.

use base::mutant::{self, Mutant};
use base::{Instant, NodeId};

use super::member::{Incarnation, Member, State};
use super::message::{Claim, Profile};
use super::suspicion::Suspicion;
use super::{Event, Gossip, Output, Refusal};

/// Sixteen million starts of a node that this member has not heard of.
const INCARNATION_LEAP_MAX: u64 = 1 << 56;

impl Gossip {
    pub(super) fn claim(&mut self, now: Instant, claim: Claim, out: &mut Vec<Output>) {
        if self.is_leap(&claim) {
            return;
        }
        match claim {
            Claim::Alive(profile) if profile.node == self.me => self.mirrored(now, *profile, out),
            Claim::Alive(profile) => self.alive(now, *profile, out),
            Claim::Suspect {
                node,
                incarnation,
                by,
            }
            | Claim::Dead {
                node,
                incarnation,
                by,
            } if node == self.me => {
                self.deny(now, incarnation, by, out);
            }
            Claim::Left { node, incarnation } if node == self.me => {
                self.deny(now, incarnation, node, out);
            }
            Claim::Suspect {
                node,
                incarnation,
                by,
            } => {
                self.suspect(now, node, incarnation, by, out);
            }
            Claim::Dead {
                node,
                incarnation,
                by,
            } => self.dead(now, node, incarnation, by, out),
            Claim::Left { node, incarnation } => self.gone(now, node, incarnation, out),
        }
    }

    /// Whether a claim is so far ahead of what is known that nobody honest makes it: what is said
    /// with the highest incarnation that there is could never be denied.
    fn is_leap(&self, claim: &Claim) -> bool {
        let (node, said) = claim.about();
        let known = match self.roster.get(node) {
            Some(known) => known.incarnation,
            None => Incarnation::default(),
        };
        said.0.saturating_sub(known.0) > INCARNATION_LEAP_MAX
    }

    fn alive(&mut self, now: Instant, profile: Profile, out: &mut Vec<Output>) {
        if !self.acceptable(&profile) {
            return;
        }
        let known = self.roster.get(profile.node);
        let holder = self.roster.named(&profile.name);
        if let Some(known) = known {
            // A clone has counted as many starts as its original.
            let same = known.incarnation == profile.incarnation;
            if same && known.address != profile.address && known.state == State::Alive {
                out.push(Output::Event(Event::TwoOfOne {
                    node: profile.node,
                    one: known.address,
                    other: profile.address,
                }));
            }
            let comes_back = known.state == State::Left && mutant::is_on(Mutant::ForgetLeave);
            let is_old = match comes_back {
                true => profile.incarnation < known.incarnation,
                false => profile.incarnation <= known.incarnation,
            };
            if is_old && (same || !mutant::is_on(Mutant::TrustOldNews)) {
                return;
            }
        }
        if let Some(holder) = holder.filter(|holder| *holder != profile.node) {
            out.push(Output::Event(Event::NameTaken {
                name: profile.name,
                holder,
                claimant: profile.node,
            }));
            return;
        }
        if known.is_none() && self.roster.len() >= self.config.limits.members {
            let reason = Refusal::TooManyMembers(self.roster.len());
            let from = profile.address;
            out.push(Output::Event(Event::Refused { from, reason }));
            return;
        }
        let node = profile.node;
        let event = match known.map(|known| known.state) {
            None | Some(State::Dead | State::Left) => Some(Event::Joined(node)),
            Some(State::Suspect) => Some(Event::Recovered(node)),
            Some(State::Alive) => Some(Event::Changed(node)),
        };
        let since = match known {
            Some(known) if known.state == State::Alive => known.since,
            _ => now,
        };
        let measured = known.and_then(|known| known.measured);
        self.forget_suspicion(node);
        self.tell(&Claim::Alive(Box::new(profile.clone())));
        let member = Member {
            node,
            name: profile.name,
            address: profile.address,
            incarnation: profile.incarnation,
            state: State::Alive,
            facts: profile.facts,
            since,
            measured,
        };
        self.roster.put(member, &mut self.random);
        out.extend(event.map(Output::Event));
    }

    /// Somebody passes on what this member, or another one in its name, has said.
    fn mirrored(&mut self, now: Instant, profile: Profile, out: &mut Vec<Output>) {
        if profile.incarnation == self.incarnation && profile.address != self.address {
            // Denying it would only make the two shout: the operator must stop one of them.
            out.push(Output::Event(Event::TwoOfOne {
                node: self.me,
                one: self.address,
                other: profile.address,
            }));
        } else if profile.incarnation > self.incarnation {
            // From an earlier life whose starts were not counted, or from a clone.
            self.incarnation = profile.incarnation.next();
            self.announce(now);
        }
    }

    fn deny(&mut self, now: Instant, said: Incarnation, by: NodeId, out: &mut Vec<Output>) {
        let is_said_of_past = said < self.incarnation || mutant::is_on(Mutant::NeverRefute);
        if is_said_of_past || self.leaving_until.is_some() {
            return;
        }
        self.incarnation = said.next();
        // Whoever is suspected is perhaps not as healthy as it thinks.
        self.awareness.worse(1);
        self.announce(now);
        out.push(Output::Event(Event::Denied { by }));
    }

    pub(super) fn suspect(
        &mut self,
        now: Instant,
        node: NodeId,
        incarnation: Incarnation,
        by: NodeId,
        out: &mut Vec<Output>,
    ) {
        let Some(known) = self.roster.get(node) else {
            return;
        };
        if incarnation < known.incarnation || !super::roster::is_present(known.state) {
            return;
        }
        let claim = Claim::Suspect {
            node,
            incarnation,
            by,
        };
        if let Some(suspicion) = self.suspicions.get_mut(&node)
            && suspicion.incarnation >= incarnation
        {
            let before = suspicion.deadline();
            if suspicion.confirm(by) {
                let after = suspicion.deadline();
                self.deaths.remove(&(before, node));
                self.deaths.insert((after, node));
                self.tell(&claim);
            }
            return;
        }
        let was_alive = known.state == State::Alive;
        let suspected = Member {
            state: State::Suspect,
            incarnation,
            since: now,
            ..known.clone()
        };
        self.forget_suspicion(node);
        let present = self.roster.present();
        let suspicion = Suspicion::new(&self.config, present, incarnation, by, now);
        self.deaths.insert((suspicion.deadline(), node));
        self.suspicions.insert(node, suspicion);
        self.roster.put(suspected, &mut self.random);
        self.tell(&claim);
        if was_alive {
            out.push(Output::Event(Event::Suspected { node, by }));
        }
    }

    pub(super) fn dead(
        &mut self,
        now: Instant,
        node: NodeId,
        incarnation: Incarnation,
        by: NodeId,
        out: &mut Vec<Output>,
    ) {
        if self.end(now, node, incarnation, State::Dead) {
            self.tell(&Claim::Dead {
                node,
                incarnation,
                by,
            });
            out.push(Output::Event(Event::Died(node)));
        }
    }

    fn gone(
        &mut self,
        now: Instant,
        node: NodeId,
        incarnation: Incarnation,
        out: &mut Vec<Output>,
    ) {
        if self.end(now, node, incarnation, State::Left) {
            self.tell(&Claim::Left { node, incarnation });
            out.push(Output::Event(Event::Left(node)));
        }
    }

    /// Whether this is news: the member was present, and the claim is not older than what is known.
    fn end(&mut self, now: Instant, node: NodeId, incarnation: Incarnation, state: State) -> bool {
        let Some(known) = self.roster.get(node) else {
            return false;
        };
        if incarnation < known.incarnation || !super::roster::is_present(known.state) {
            return false;
        }
        let ended = Member {
            state,
            incarnation,
            since: now,
            ..known.clone()
        };
        self.forget_suspicion(node);
        self.roster.put(ended, &mut self.random);
        true
    }

    fn forget_suspicion(&mut self, node: NodeId) {
        if let Some(suspicion) = self.suspicions.remove(&node) {
            self.deaths.remove(&(suspicion.deadline(), node));
        }
    }

    /// Suspects whose time to deny it is over.
    pub(super) fn bury(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some((at, node)) = self.deaths.first().copied()
            && (at <= now || mutant::is_on(Mutant::BuryAtOnce))
        {
            self.deaths.pop_first();
            let incarnation = self.suspicions[&node].incarnation;
            self.dead(now, node, incarnation, self.me, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use base::ClusterId;

    use super::*;
    use crate::gossip::Startup;
    use crate::gossip::config::{Config, Limits};
    use crate::gossip::member::Facts;

    fn gossip(limits: Limits) -> Gossip {
        let startup = Startup {
            config: Config {
                limits,
                ..Config::local_network()
            },
            cluster: ClusterId(1),
            node: NodeId(1),
            name: "n1".to_owned(),
            address: "127.0.0.1:1".parse().unwrap(),
            start: 1,
            process: 1,
            facts: Facts::default(),
            keys: crate::gossip::seal::Keys::default(),
            seed: 1,
        };
        Gossip::new(startup, Instant(1))
    }

    fn profile(node: u64) -> Profile {
        Profile {
            node: NodeId(node),
            incarnation: Incarnation::of_start(1),
            name: format!("n{node}"),
            address: "127.0.0.1:2".parse().unwrap(),
            facts: Facts::default(),
        }
    }

    fn takes(gossip: &mut Gossip, profile: Profile) -> bool {
        let (node, incarnation) = (profile.node, profile.incarnation);
        let claim = Claim::Alive(Box::new(profile));
        gossip.claim(Instant(2), claim, &mut Vec::new());
        let member = gossip.roster.get(node);
        member.is_some_and(|member| member.incarnation == incarnation)
    }

    #[test]
    fn what_fits_no_packet_or_commands_a_terminal_makes_no_member() {
        let mut gossip = gossip(Limits::default());
        let long = || "x".repeat(255);
        let mut large = profile(2);
        large.facts.peer_address = long();
        large.facts.client_address = long();
        large.facts.domains.zone = long();
        assert!(takes(&mut gossip, large.clone()), "large, and fits");
        large.node = NodeId(3);
        large.name = long();
        large.facts.domains.rack = long();
        assert!(!takes(&mut gossip, large));
        let mut loud = profile(4);
        loud.facts.domains.zone = "\u{1b}[2J".to_owned();
        assert!(!takes(&mut gossip, loud.clone()));
        loud.facts.domains.zone = "zürich".to_owned();
        assert!(takes(&mut gossip, loud));
    }

    #[test]
    fn nobody_says_what_could_never_be_denied() {
        let mut gossip = gossip(Limits::default());
        assert!(takes(&mut gossip, profile(2)));
        let (node, incarnation, by) = (NodeId(2), Incarnation(u64::MAX), NodeId(3));
        let claim = Claim::Suspect {
            node,
            incarnation,
            by,
        };
        gossip.claim(Instant(2), claim, &mut Vec::new());
        assert_eq!(gossip.roster.get(node).unwrap().state, State::Alive);
        let highest = |node| Profile {
            incarnation,
            ..profile(node)
        };
        assert!(!takes(&mut gossip, highest(2)));
        assert!(!takes(&mut gossip, highest(3)), "nor of a stranger");
        takes(&mut gossip, highest(1));
        let node = NodeId(1);
        let of_me = Claim::Left { node, incarnation };
        gossip.claim(Instant(2), of_me, &mut Vec::new());
        assert_eq!(gossip.incarnation, Incarnation::of_start(1), "of oneself");
    }

    #[test]
    fn an_exchange_keeps_its_bound() {
        let limits = Limits {
            sync_bytes: 500,
            ..Limits::default()
        };
        let mut gossip = gossip(limits);
        for node in 2..30 {
            assert!(takes(&mut gossip, profile(node)));
        }
        let bytes = gossip.everything();
        assert!((300..=500).contains(&bytes.len()), "{}", bytes.len());
        let body = gossip.sealer.open(&bytes).unwrap();
        let message = crate::gossip::message::Message::decode(&body).unwrap();
        assert_eq!(message.claims[0].about().0, NodeId(1), "itself above all");
    }
}
