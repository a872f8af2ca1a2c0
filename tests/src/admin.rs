//! Owns the gRPC client of the tests: it knows no proto file and asks the server what it serves.
//!
//! Requests and responses are JSON; messages are built from the descriptors that server reflection (v1) returns. Never
//! uses a generated type of ours, so a test that passes proves that a stranger with grpcurl can do the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::FileDescriptorProto;
use serde_json::Value;
use tokio::sync::OnceCell;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_reflection::pb::v1;
use tonic_reflection::pb::v1alpha;

/// How long one call may take, `wait` of an audit included.
const CALL: Duration = Duration::from_secs(70);

/// A client of one admin port.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    channel: Channel,
    token: Option<String>,
    pool: OnceCell<DescriptorPool>,
}

/// Why a call failed: the server's code and words.
#[derive(Debug)]
pub struct Refused(pub Status);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.0.code(), self.0.message())
    }
}

impl std::error::Error for Refused {}

impl Admin {
    /// A client of `address`. Connects when it is first used, and again after the server was away.
    pub fn new(address: SocketAddr, token: Option<String>) -> Result<Self> {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(5));
        Ok(Self { address, channel: endpoint.connect_lazy(), token, pool: OnceCell::new() })
    }

    /// The address that it asks.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The names of the services, by reflection v1.
    pub async fn services(&self) -> Result<Vec<String>> {
        match self.reflect(v1::server_reflection_request::MessageRequest::ListServices(String::new())).await?
        {
            v1::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                Ok(list.service.into_iter().map(|service| service.name).collect())
            }
            other => bail!("reflection answered {other:?}"),
        }
    }

    /// The names of the services, by reflection v1alpha, which is all that older grpcurl builds speak.
    pub async fn services_v1alpha(&self) -> Result<Vec<String>> {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(self.channel.clone());
        let request = self.authorised(tokio_stream::once(request))?;
        let mut answers = client.server_reflection_info(request).await.map_err(Refused)?.into_inner();
        let answer =
            answers.message().await.map_err(Refused)?.context("reflection v1alpha gave no answer")?;
        match answer.message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                Ok(list.service.into_iter().map(|service| service.name).collect())
            }
            other => bail!("reflection v1alpha answered {other:?}"),
        }
    }

    /// Calls a unary method such as `proxy.admin.v1.ConnectionService/GetCounters`.
    ///
    /// Field names are those of the proto file, 64-bit numbers are numbers, enum values their names, and fields at
    /// their default are present. A refusal by the server is a [`Refused`].
    pub async fn call(&self, method: &str, request: &Value) -> Result<Value> {
        tokio::time::timeout(CALL, self.call_unbounded(method, request))
            .await
            .map_err(|_| anyhow!("{} did not answer {method} within {CALL:?}", self.address))?
    }

    async fn call_unbounded(&self, method: &str, request: &Value) -> Result<Value> {
        let (service, name) = method.split_once('/').context("a method is SERVICE/METHOD")?;
        let pool = self.pool.get_or_try_init(|| self.descriptors(service)).await?;
        let pool = match pool.get_service_by_name(service) {
            Some(_) => pool.clone(),
            None => self.descriptors(service).await?,
        };
        let service = pool.get_service_by_name(service).with_context(|| format!("no service {service}"))?;
        let method = service
            .methods()
            .find(|found| found.name() == name)
            .with_context(|| format!("no method {name}"))?;
        let message = DynamicMessage::deserialize(method.input(), request)
            .with_context(|| format!("the request of {name}"))?;
        let path = format!("/{}/{}", service.full_name(), method.name()).parse()?;
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.with_context(|| format!("{} cannot be reached", self.address))?;
        let reply = client
            .unary(self.authorised(message)?, path, DynamicCodec(method.output()))
            .await
            .map_err(Refused)?
            .into_inner();
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false)
            .skip_default_fields(false);
        Ok(reply.serialize_with_options(serde_json::value::Serializer, &options)?)
    }

    fn authorised<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        Ok(request)
    }

    /// Everything that the file of `symbol` needs, file by file.
    async fn descriptors(&self, symbol: &str) -> Result<DescriptorPool> {
        use v1::server_reflection_request::MessageRequest;
        let mut files = self.files(MessageRequest::FileContainingSymbol(symbol.to_owned())).await?;
        let mut known: BTreeSet<String> = files.iter().map(|file| file.name().to_owned()).collect();
        let mut next = 0;
        while next < files.len() {
            for name in files[next].dependency.clone() {
                if known.insert(name.clone()) {
                    files.extend(self.files(MessageRequest::FileByFilename(name)).await?);
                }
            }
            next += 1;
        }
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files)?;
        Ok(pool)
    }

    async fn files(
        &self,
        request: v1::server_reflection_request::MessageRequest,
    ) -> Result<Vec<FileDescriptorProto>> {
        match self.reflect(request).await? {
            v1::server_reflection_response::MessageResponse::FileDescriptorResponse(found) => found
                .file_descriptor_proto
                .iter()
                .map(|bytes| Ok(FileDescriptorProto::decode(bytes.as_slice())?))
                .collect(),
            other => bail!("reflection answered {other:?}"),
        }
    }

    async fn reflect(
        &self,
        request: v1::server_reflection_request::MessageRequest,
    ) -> Result<v1::server_reflection_response::MessageResponse> {
        let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(self.channel.clone());
        let request = self.authorised(tokio_stream::once(request))?;
        let mut answers = client.server_reflection_info(request).await.map_err(Refused)?.into_inner();
        let answer = answers.message().await.map_err(Refused)?.context("reflection gave no answer")?;
        answer.message_response.context("reflection gave an empty answer")
    }
}

/// Messages of which only the descriptor is known.
struct DynamicCodec(MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        DynamicDecoder(self.0.clone())
    }
}

struct DynamicEncoder;

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

struct DynamicDecoder(MessageDescriptor);

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        DynamicMessage::decode(self.0.clone(), buffer)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
