//! The small HTTP server for `/metrics`, `/healthz` and `/readyz`.
//!
//! *Owns* its connections, at most [`MAX_CONNECTIONS`] of them. *Never* runs on a thread that carries
//! traffic, and serves nothing but these three paths. *Invariant*: a client that says nothing, or does not
//! read, is gone after [`PATIENCE`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::exposition::CONTENT_TYPE;
use crate::tasks;

/// Scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server asks the process.
pub trait Status: Send + Sync + 'static {
    /// The page of metrics.
    fn metrics(&self) -> String;

    /// May this process get new traffic? If not, why.
    fn readiness(&self) -> Result<(), &'static str>;
}

/// Serves until dropped.
pub async fn serve_status(listener: TcpListener, status: Arc<impl Status>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let status = Arc::clone(&status);
        // The task ends by itself.
        drop(tasks::spawn("http_status", async move {
            drop(tokio::time::timeout(PATIENCE, serve(socket, status)).await);
            drop(place);
        }));
    }
}

async fn serve(socket: TcpStream, status: Arc<impl Status>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &*status);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE / 3).max_buf_size(16 * 1024);
    if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(%error, "a status client went away");
    }
}

fn answer(request: &Request<Incoming>, status: &impl Status) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    let (code, content_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, CONTENT_TYPE, status.metrics()),
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, text, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match status.readiness() {
            Ok(()) => (StatusCode::OK, text, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{why}\n")),
        },
        (_, "/metrics" | "/healthz" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, text, "GET or HEAD\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, text, "/metrics, /healthz, /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
