//! What a client of the admin services needs: messages, clients, and the descriptors for JSON.
//!
//! *Owns* the only door through which proto types leave this crate, for `proxyctl` and for tests. *Never*
//! dials by itself except through [`connect`]. *Invariant*: nothing here is needed to run a process.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Request, Status};

pub use crate::proto::DESCRIPTORS;
pub use crate::proto::admin::v1 as messages;
pub use crate::proto::admin::v1::connection_service_client::ConnectionServiceClient;
pub use crate::proto::admin::v1::proxy_service_client::ProxyServiceClient;
use crate::token::Token;

/// The control channel's own messages and client: for tests that speak it by hand.
pub mod control_channel {
    pub use crate::proto::control::v1::control_service_client::ControlServiceClient;
    pub use crate::proto::control::v1::*;
}

/// A process's admin services.
pub type Connections = ConnectionServiceClient<InterceptedService<Channel, Bearer>>;
/// A process's own service.
pub type Proxy = ProxyServiceClient<InterceptedService<Channel, Bearer>>;

/// Presents a token with every call, where there is one.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

/// A connection to a process's gRPC port.
#[derive(Clone, Debug)]
pub struct Admin {
    channel: Channel,
    bearer: Bearer,
}

impl Admin {
    /// `ConnectionService`.
    pub fn connections(&self) -> Connections {
        ConnectionServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// `ProxyService`.
    pub fn proxy(&self) -> Proxy {
        ProxyServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The channel beneath, for health and reflection.
    pub fn channel(&self) -> InterceptedService<Channel, Bearer> {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// Connects to the gRPC port at `address` (`host:port`).
pub async fn connect(address: &str, token: Option<&Token>, patience: Duration) -> Result<Admin, Error> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(patience).tcp_nodelay(true);
    let channel = endpoint.connect().await?;
    // A token file holds visible ASCII alone, so it fits a header.
    let bearer = token.and_then(|token| format!("Bearer {}", token.reveal()).parse().ok());
    Ok(Admin { channel, bearer: Bearer(bearer) })
}
