//! The sockets of a server, bound before anything else is done: what cannot be had is found out
//! before the log is touched.

use std::net::SocketAddr;

use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;

use super::{Endpoints, Error};
use crate::configuration::{Configuration, Listen};
use crate::limits::GossipLimits;
use crate::listeners::Listener;

/// The sockets, bound before anything else is done.
pub(super) struct Sockets {
    pub(super) etcd: Vec<Listener>,
    /// With the keyspace of those who name none.
    pub(super) keyspaces: Vec<(String, Listener)>,
    pub(super) admin: Option<Listener>,
    pub(super) metrics: Vec<Listener>,
    pub(super) peer: Option<TcpListener>,
    /// On the same port as `peer`, if the node gossips.
    pub(super) gossip: Option<UdpSocket>,
}

impl Sockets {
    pub(super) async fn bind(
        configuration: &Configuration,
        limits: &GossipLimits,
    ) -> Result<Sockets, Error> {
        let bind = async |key: &'static str, listen: &Listen| {
            let failure = |error| Error::Listen {
                key,
                address: listen.clone(),
                error,
            };
            Listener::bind(listen).await.map_err(failure)
        };
        let (peer, gossip) = peers(configuration, limits).await?;
        let mut etcd = Vec::new();
        for listen in [&configuration.listen_etcd]
            .into_iter()
            .chain(&configuration.listen_etcd_also)
        {
            etcd.extend(bind("listen-etcd", listen).await?);
        }
        let mut keyspaces = Vec::new();
        for (name, listen) in &configuration.listen_etcd_keyspace {
            let bound = bind("listen-etcd-keyspace", listen).await?;
            keyspaces.extend(bound.map(|listener| (name.clone(), listener)));
        }
        let mut metrics = Vec::new();
        for listen in &configuration.listen_metrics {
            metrics.extend(bind("listen-metrics", listen).await?);
        }
        Ok(Sockets {
            etcd,
            keyspaces,
            metrics,
            admin: bind("listen-admin", &configuration.listen_admin).await?,
            peer,
            gossip,
        })
    }

    pub(super) fn endpoints(&self) -> Endpoints {
        let address =
            |listener: Option<&Listener>| listener.map_or(Listen::None, Listener::address);
        let peer = self
            .peer_address()
            .map_or(Listen::None, |peer| Listen::Tcp(peer.to_string()));
        Endpoints {
            etcd: address(self.etcd.first()),
            admin: address(self.admin.as_ref()),
            peer,
        }
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.peer.as_ref().and_then(|peer| peer.local_addr().ok())
    }

    pub(super) fn etcd_address(&self) -> Option<SocketAddr> {
        match self.etcd.first() {
            Some(Listener::Tcp(listener)) => listener.local_addr().ok(),
            _ => None,
        }
    }
}

/// The peers' port: for connections, and for packets if the node gossips.
async fn peers(
    configuration: &Configuration,
    limits: &GossipLimits,
) -> Result<(Option<TcpListener>, Option<UdpSocket>), Error> {
    let listen = configuration.peer_listener();
    let failure = |key, address: &Listen, error| Error::Listen {
        key,
        address: address.clone(),
        error,
    };
    let mut draws = 1;
    loop {
        let bound = Listener::bind(&listen).await;
        let bound = bound.map_err(|error| failure("listen-peer", &listen, error))?;
        let peer = match bound {
            Some(Listener::Tcp(listener)) => listener,
            Some(Listener::Unix { .. }) => unreachable!("checked: peers connect over TCP"),
            None => return Ok((None, None)),
        };
        if !configuration.gossips() {
            return Ok((Some(peer), None));
        }
        let address = peer.local_addr();
        let address = address.map_err(|error| failure("listen-peer", &listen, error))?;
        match UdpSocket::bind(address).await {
            Ok(packets) => return Ok((Some(peer), Some(packets))),
            // The system chose a port for connections, and packets of somebody else go there.
            Err(_) if is_drawn(&listen) && draws < limits.port_draws => draws += 1,
            // Nobody asked for gossip: the node serves without, as it did before there was any.
            Err(error) if configuration.gossip.is_none() => {
                tracing::warn!(
                    "gossip is off: packets cannot be received at {address} (UDP): {error}"
                );
                return Ok((Some(peer), None));
            }
            Err(error) => {
                let taken = Listen::Tcp(format!("{address} (UDP)"));
                return Err(failure("listen-peer", &taken, error));
            }
        }
    }
}

fn is_drawn(listen: &Listen) -> bool {
    matches!(listen, Listen::Tcp(address) if address.ends_with(":0"))
}

/// A listener that belongs to another runtime from now on.
pub(super) fn move_to(
    runtime: &Runtime,
    listener: Option<TcpListener>,
) -> Result<Option<TcpListener>, Error> {
    let _context = runtime.enter();
    let moved = listener.map(|listener| TcpListener::from_std(listener.into_std()?));
    moved.transpose().map_err(Error::system("listen for peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_stops_only_those_who_asked_for_gossip() {
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let taken = other.local_addr().unwrap().to_string();
        let mut configuration = Configuration {
            listen_peer: Some(Listen::Tcp(taken)),
            ..Configuration::default()
        };
        let limits = GossipLimits::default();
        let (peer, packets) = peers(&configuration, &limits).await.unwrap();
        assert!(peer.is_some() && packets.is_none());
        drop(peer);
        configuration.gossip = Some(true);
        assert!(peers(&configuration, &limits).await.is_err());
    }
}
