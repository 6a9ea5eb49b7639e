//! The sockets of a server, bound before anything else is done: what cannot be had is found out
//! before the log is touched.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{Endpoints, Error};
use crate::configuration::{Configuration, Listen};
use crate::listeners::Listener;

/// The sockets, bound before anything else is done.
pub(super) struct Sockets {
    pub(super) etcd: Vec<Listener>,
    pub(super) admin: Option<Listener>,
    pub(super) metrics: Vec<Listener>,
    pub(super) peer: Option<TcpListener>,
}

impl Sockets {
    pub(super) async fn bind(configuration: &Configuration) -> Result<Sockets, Error> {
        let bind = async |key: &'static str, listen: &Listen| {
            let failure = |error| Error::Listen {
                key,
                address: listen.clone(),
                error,
            };
            Listener::bind(listen).await.map_err(failure)
        };
        let peer = match bind("listen-peer", &configuration.peer_listener()).await? {
            Some(Listener::Tcp(listener)) => Some(listener),
            Some(Listener::Unix(..)) => unreachable!("checked: peers connect over TCP"),
            None => None,
        };
        let mut etcd = Vec::new();
        for listen in [&configuration.listen_etcd]
            .into_iter()
            .chain(&configuration.listen_etcd_also)
        {
            etcd.extend(bind("listen-etcd", listen).await?);
        }
        let mut metrics = Vec::new();
        for listen in &configuration.listen_metrics {
            metrics.extend(bind("listen-metrics", listen).await?);
        }
        Ok(Sockets {
            etcd,
            metrics,
            admin: bind("listen-admin", &configuration.listen_admin).await?,
            peer,
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

/// A listener that belongs to another runtime from now on.
pub(super) fn move_to(
    runtime: &Runtime,
    listener: Option<TcpListener>,
) -> Result<Option<TcpListener>, Error> {
    let _context = runtime.enter();
    let moved = listener.map(|listener| TcpListener::from_std(listener.into_std()?));
    moved.transpose().map_err(Error::system("listen for peers"))
}
