//! etcd's Maintenance service, as one node gives it.
//!
//! | call | answered |
//! |---|---|
//! | Alarm, Downgrade | read after a read round; changed by a command |
//! | Hash, HashKV, Snapshot, Status | by this node, as it is, as in etcd |
//! | Defragment | at once: space is given back all the time |
//! | MoveLeader | by the leader alone (`members.rs`) |

use base::NodeId;
use bytes::BytesMut;
use consensus::{Engine as _, Role};
use etcd::maintenance::alarm::{self, AlarmKind};
use etcd::maintenance::command::{self, MaintenanceCommand};
use etcd::maintenance::downgrade::{self, ClusterVersion};
use etcd::maintenance::hash;
use etcd::proto::etcdserverpb::alarm_request::AlarmAction;
use etcd::proto::etcdserverpb::downgrade_request::DowngradeAction;
use etcd::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, ResponseHeader, StatusResponse,
};
use etcd::{Error, MaintenanceRequest, MaintenanceResponse};
use state::CheckpointHead;

use super::{Group, Moment};
use crate::calls::{Admittance, CallKind, Late, ReadKind, Waiter};
use crate::interface::{Answer, CallId, Job, Output, SnapshotSource};
use crate::peers::Peers;

/// The version of etcd that this cluster stands for, without its last number.
fn own_version() -> ClusterVersion {
    ClusterVersion::parse(crate::ETCD_VERSION).expect("the version is one of etcd's")
}

impl Group {
    /// A client asks something of etcd's maintenance service.
    pub(super) fn call_maintenance(
        &mut self,
        moment: Moment,
        id: CallId,
        request: MaintenanceRequest,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match request {
            MaintenanceRequest::Alarm(request) => self.call_alarm(moment, id, request, out),
            MaintenanceRequest::Downgrade(request) => {
                self.open(moment, id, CallKind::EtcdMaintenance);
                if let Err(error) = self.call_downgrade(moment, id, request) {
                    self.fail(id, error, out);
                }
            }
            MaintenanceRequest::MoveLeader(request) => {
                self.move_leader(moment, id, NodeId(request.target_id), peers, out);
            }
            MaintenanceRequest::HashKv(request) => {
                self.open(moment, id, CallKind::EtcdMaintenance);
                self.hash_elsewhere(id, request, out);
            }
            MaintenanceRequest::Hash => {
                let response = MaintenanceResponse::Hash(hash::hash_all(self.replica.reader()));
                self.open(moment, id, CallKind::EtcdMaintenance);
                self.answer_maintenance(id, Ok(response), out);
            }
            MaintenanceRequest::Defragment => {
                let response = MaintenanceResponse::Defragment(DefragmentResponse::default());
                self.open(moment, id, CallKind::EtcdMaintenance);
                self.answer_maintenance(id, Ok(response), out);
            }
        }
    }

    fn call_alarm(
        &mut self,
        moment: Moment,
        id: CallId,
        request: AlarmRequest,
        out: &mut Vec<Output>,
    ) {
        self.open(moment, id, CallKind::EtcdMaintenance);
        let kind = AlarmKind::from_number(request.alarm);
        let alarm = kind.map(|kind| alarm::Alarm {
            kind,
            member: request.member_id,
        });
        let command = match (request.action(), alarm) {
            (AlarmAction::Get, _) => {
                let read = ReadKind::EtcdMaintenance(MaintenanceRequest::Alarm(request));
                self.calls.set_late(id, Late::Proposal);
                return self.calls.add_read(id, read);
            }
            (AlarmAction::Activate, Some(alarm)) => MaintenanceCommand::Raise(alarm),
            (AlarmAction::Deactivate, Some(alarm)) => MaintenanceCommand::Clear(alarm),
            // As in etcd: to change no alarm is no mistake.
            (AlarmAction::Activate | AlarmAction::Deactivate, None) => {
                let response = MaintenanceResponse::Alarm(AlarmResponse::default());
                return self.answer_maintenance(id, Ok(response), out);
            }
        };
        if let Err(error) = self.add_maintenance(moment, id, command) {
            self.fail(id, error, out);
        }
    }

    fn call_downgrade(
        &mut self,
        moment: Moment,
        id: CallId,
        request: DowngradeRequest,
    ) -> Result<(), Error> {
        let own = own_version();
        match DowngradeAction::try_from(request.action).map_err(|_| Error::UnknownMethod)? {
            DowngradeAction::Validate => {
                ClusterVersion::parse(&request.version)?;
                let read = ReadKind::EtcdMaintenance(MaintenanceRequest::Downgrade(request));
                self.calls.add_read(id, read);
                Ok(())
            }
            DowngradeAction::Enable => {
                let target = ClusterVersion::parse(&request.version)?;
                let command = MaintenanceCommand::Downgrade { own, target };
                self.add_maintenance(moment, id, command)?;
                // In etcd it is validated first, which asks which slot is current.
                self.calls.set_late(id, Late::Read);
                Ok(())
            }
            DowngradeAction::Cancel => {
                self.add_maintenance(moment, id, MaintenanceCommand::Stay { own })
            }
        }
    }

    fn add_maintenance(
        &mut self,
        moment: Moment,
        call: CallId,
        command: MaintenanceCommand,
    ) -> Result<(), Error> {
        let waiter = Waiter::Call {
            call,
            until_compacted: false,
        };
        let deadline = moment.now + self.config.timing.request_timeout;
        let added = self.calls.add_command(
            command::PROTOCOL,
            command.encode(),
            waiter,
            deadline,
            Admittance::Reserved,
        );
        self.metrics.calls_refused += u64::from(added.is_err());
        added.map_err(|_| Error::TooManyRequests)
    }

    /// Answers what was read after a round.
    pub(super) fn read_maintenance(
        &mut self,
        id: CallId,
        request: &MaintenanceRequest,
        out: &mut Vec<Output>,
    ) {
        let reader = self.replica.reader();
        let result = match request {
            MaintenanceRequest::Alarm(request) => {
                let alarms = alarm::messages(reader, AlarmKind::from_number(request.alarm));
                let header = None;
                Ok(MaintenanceResponse::Alarm(AlarmResponse { header, alarms }))
            }
            MaintenanceRequest::Downgrade(request) => ClusterVersion::parse(&request.version)
                .and_then(|target| {
                    downgrade::validate(reader, own_version(), target)?;
                    let (header, version) = (None, own_version().to_string());
                    let response = DowngradeResponse { header, version };
                    Ok(MaintenanceResponse::Downgrade(response))
                }),
            _ => Err(Error::Internal(
                "quorate: a maintenance call that reads nothing was taken for a read",
            )),
        };
        self.answer_maintenance(id, result, out);
    }

    fn hash_elsewhere(&mut self, id: CallId, request: HashKvRequest, out: &mut Vec<Output>) {
        let (snapshot, header) = (self.replica.snapshot(), self.etcd_header(0));
        let job = Job::new(move |wanted| {
            let hashed = hash::hash_keys(&snapshot, &request, &wanted);
            let response = hashed.map(MaintenanceResponse::HashKv);
            Answer::EtcdMaintenance(response.map(|response| filled(response, header)))
        });
        self.offload(id, job, out);
    }

    /// Answers a maintenance call, with the header that this node has to say.
    pub(super) fn answer_maintenance(
        &mut self,
        id: CallId,
        result: Result<MaintenanceResponse, Error>,
        out: &mut Vec<Output>,
    ) {
        let header = self.etcd_header(self.replica.reader().revision().0);
        let result = result.map(|response| filled(response, header));
        self.answer(id, Answer::EtcdMaintenance(result), out);
    }

    /// What a checkpoint of this moment is written from.
    pub(super) fn snapshot_source(&self) -> Box<SnapshotSource> {
        let mut membership = BytesMut::new();
        self.replica.membership().encode(&mut membership);
        Box::new(SnapshotSource {
            snapshot: self.replica.snapshot(),
            head: CheckpointHead {
                cluster: self.cluster,
                group: self.id,
                membership: membership.freeze(),
            },
            limits: self.config.limits.state,
        })
    }

    /// How this node is doing, as etcd's clients know it.
    pub(super) fn etcd_status(&self) -> StatusResponse {
        let (reader, view) = (self.replica.reader(), self.engine.view());
        let mut errors: Vec<String> = Vec::new();
        if self.leader.is_none() {
            errors.push(Error::NoLeader.text().to_owned());
        }
        errors.extend(alarm::list(reader).iter().map(ToString::to_string));
        // What a live key takes besides key and value, so that the rest of what is held is history.
        let overhead = reader.key_count() * state::limits::OVERHEAD_BYTES;
        let in_use = reader.live_bytes().saturating_add(overhead);
        StatusResponse {
            header: Some(self.etcd_header(reader.revision().0)),
            version: crate::ETCD_VERSION.to_owned(),
            storage_version: crate::ETCD_STORAGE_VERSION.to_owned(),
            db_size: signed(reader.held_bytes()),
            db_size_in_use: signed(in_use.min(reader.held_bytes())),
            db_size_quota: signed(reader.quota_bytes()),
            leader: self.leader.map_or(0, |leader| leader.0),
            raft_index: view.chosen.0,
            raft_term: self.epoch.0,
            raft_applied_index: reader.applied().0,
            errors,
            is_learner: view.role == Role::Learner,
            downgrade_info: Some(downgrade::info(reader)),
        }
    }

    /// Who answers.
    pub(super) fn etcd_header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster.0,
            member_id: self.own.0,
            revision,
            raft_term: self.epoch.0,
        }
    }
}

/// Fills in who answers, and keeps the revision that is there.
fn filled(mut response: MaintenanceResponse, header: ResponseHeader) -> MaintenanceResponse {
    if let Some(place) = response.header_mut() {
        let revision = match place.revision {
            0 => header.revision,
            revision => revision,
        };
        *place = ResponseHeader { revision, ..header };
    }
    response
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
