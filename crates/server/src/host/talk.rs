//! What a node says beside its group's business: gossip, and evidence for those who ask.
//!
//! ```text
//!   peers' port, UDP ───────────▶ gossip ─▶ view ─▶ status, evidence
//!               TCP, questions ─▶ witness ─▶ answers; what is gossip goes on to gossip
//! ```

use std::sync::Arc;

use cluster::gossip::seal::Keys;
use node::{Config, Identity};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Error;
use crate::calls::Calls;
use crate::configuration::{Configuration, ConfigurationError, Origin};
use crate::evidence::{Settled, Witness};
use crate::folder::Folder;
use crate::gossip::{Attendance, Told, View, read_keys};
use crate::limits::Limits;
use crate::metrics::{Exposition, Metrics};
use crate::node_loop::{Clock, Phase};
use crate::transport::{Asked, Asker};

/// Everything that it takes, before the node serves.
pub(super) struct Talk {
    /// Where packets come in; `None`: the node does not gossip.
    pub(super) packets: Option<UdpSocket>,
    pub(super) told: Told,
    pub(super) questions: mpsc::Receiver<Asked>,
    pub(super) asker: Asker,
    identities: watch::Receiver<Option<Identity>>,
    view: watch::Sender<View>,
    settled: Arc<Settled>,
}

/// The keys of gossip.
pub(super) fn keys(configuration: &Configuration) -> Result<Keys, Error> {
    let Some(path) = &configuration.gossip_key_file else {
        return Ok(Keys::default());
    };
    read_keys(path).map_err(|problem| {
        Error::Configuration(ConfigurationError {
            key: "gossip-key-file".into(),
            origin: Origin::default(),
            problem,
        })
    })
}

/// What the configuration says of gossip.
pub(super) fn told(configuration: &Configuration, keys: Keys, node: &Config) -> Told {
    let formed = configuration.cluster.iter();
    let formed = formed.map(|(_, address)| address.clone());
    Told {
        peer_address: node.peer_address.clone().unwrap_or_default(),
        client_address: node.client_urls.first().cloned().unwrap_or_default(),
        peers: formed.chain(configuration.join.iter().cloned()).collect(),
        zone: configuration.zone.clone(),
        rack: configuration.rack.clone(),
        key_file: configuration.gossip_key_file.clone(),
        keys,
    }
}

impl Talk {
    pub(super) fn new(
        configuration: &Configuration,
        folder: &Folder,
        told: Told,
        packets: Option<UdpSocket>,
        (questions, asker): (mpsc::Receiver<Asked>, Asker),
    ) -> Talk {
        Talk {
            packets,
            told,
            questions,
            asker,
            identities: folder.identities(),
            view: watch::Sender::new(View::default()),
            settled: Arc::new(Settled::new(configuration, folder.path())),
        }
    }

    pub(super) fn witness(
        &self,
        calls: Calls,
        exposition: Exposition,
        clock: Clock,
        limits: &Limits,
    ) -> Witness {
        Witness {
            calls,
            exposition,
            view: self.view.subscribe(),
            clock,
            patience: limits.clients.metrics_timeout,
            settled: Arc::clone(&self.settled),
            sharing: Arc::default(),
        }
    }

    /// Begins to talk, on the current runtime. What has to say goodbye is one of `tasks`.
    pub(super) fn begin(
        self,
        witness: Witness,
        limits: &Limits,
        metrics: &Metrics,
        phases: &watch::Receiver<Phase>,
        tasks: &mut JoinSet<()>,
    ) {
        let (calls, clock) = (witness.calls.clone(), witness.clock);
        let (gossip, exchanges) = mpsc::channel(limits.gossip.exchanges);
        tokio::spawn(witness.answer(self.questions, gossip));
        let Some(packets) = self.packets else {
            return;
        };
        let attendance = Attendance {
            told: self.told,
            packets,
            identities: self.identities,
            phases: phases.clone(),
            calls,
            exchanges,
            asker: self.asker,
            clock,
            limits: limits.gossip.clone(),
            metrics: metrics.gossip.clone(),
            view: self.view,
        };
        tasks.spawn(attendance.run());
    }
}
