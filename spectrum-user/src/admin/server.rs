//! Metrics and health over HTTP, on a thread of its own: neither who steers nor a worker waits for who scrapes. Has no
//! password, and changes nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

use super::exposition::{TextFormat, exposition};
use crate::view::{Readiness, Scope, View};

/// The number of those who may ask at once. For one more, the one goes that has waited longest to say what it wants.
const AT_ONCE: usize = 24;

/// The time that somebody may take to say what they want.
const ASKING: Duration = Duration::from_secs(2);

/// The time that one exchange may take in all, the reading of the answer included.
const EXCHANGE: Duration = Duration::from_secs(10);

/// The longest request, in bytes; the least that the library allows.
const LONGEST: usize = 8 * 1024;

/// The time to wait while the host is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Enough for a request in progress, and for the text of very many services.
const STACK: usize = 512 * 1024;

/// Makes the view of the moment, as far as it is wanted. Must not take long.
type ViewMaker = dyn Fn(Scope<'_>) -> View + Send + Sync;

/// A running server. Dropping it closes its socket and ends its thread.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    /// The listener, for a program that this process becomes.
    listener: OwnedFd,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The error of serving metrics.
#[derive(Debug, thiserror::Error)]
#[error("serve metrics and health on {address}{}", cure(.source))]
pub struct AdminError {
    /// The address.
    pub address: SocketAddr,
    /// The system's own error.
    #[source]
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another program has it: choose another port for --admin or [admin] listen)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this network namespace has that address)",
        _ => "",
    }
}

impl AdminServer {
    /// Serves what `view` makes on `address`, in the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// The address is taken or not this host's, or the system has no thread to spare.
    pub fn start(
        address: SocketAddr,
        view: impl Fn(Scope<'_>) -> View + Send + Sync + 'static,
    ) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(address).map_err(|source| AdminError { address, source })?;
        Self::adopt(address, listener.into(), view)
    }

    /// The same with a socket that listens on `address` already: who has asked meanwhile is answered now.
    ///
    /// # Errors
    /// The system has no thread or descriptor to spare.
    pub fn adopt(
        address: SocketAddr,
        listener: OwnedFd,
        view: impl Fn(Scope<'_>) -> View + Send + Sync + 'static,
    ) -> Result<Self, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let own = listener.as_fd().try_clone_to_owned().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let pages = Arc::new(Pages { view: Box::new(view) });
        // Made by the thread that it belongs to; what it says is waited for.
        let (report, reported) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("admin".into()).stack_size(STACK).spawn(move || {
            match runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    runtime.block_on(async {
                        tokio::select! {
                            biased;
                            _ = stopped => {}
                            () = accept(listener, pages) => {}
                        }
                    });
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        });
        let thread = thread.map_err(failed)?;
        let dead = || io::Error::other("its thread died");
        reported.recv().unwrap_or_else(|_gone| Err(dead())).map_err(failed)?;
        Ok(Self { address, listener: own, stop: Some(stop), thread: Some(thread) })
    }

    /// The listener.
    #[must_use]
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The address at which it serves, with the port that the system chose, if it was to choose one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and there is nothing to undo.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "serve metrics and health"),
    };
    let mut exchanges = Exchanges::default();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let asked = exchanges.make_room();
                let task = tokio::spawn(exchange(stream, client, Arc::clone(&pages), Arc::clone(&asked)));
                exchanges.0.push_back(Exchange { asked, task: task.abort_handle() });
                // Who has asked already is answered before more are accepted.
                yield_now().await;
            }
            Err(error) => {
                tracing::debug!(%error, "accept over HTTP");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One request and its answer. Sets `asked` when the request is there.
async fn exchange(stream: TcpStream, client: SocketAddr, pages: Arc<Pages>, asked: Arc<AtomicBool>) {
    let answer = service_fn(move |request| {
        asked.store(true, Ordering::Relaxed);
        let answer = pages.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .max_buf_size(LONGEST)
        // One exchange each: a scraper comes once in many seconds, and an idle connection has a place.
        .keep_alive(false);
    let exchange = http.serve_connection(TokioIo::new(stream), answer);
    match timeout(EXCHANGE, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%client, %error, "answer over HTTP"),
        Err(_elapsed) => tracing::debug!(%client, "answer over HTTP: it took too long"),
    }
}

/// Those who ask now, who came first first.
#[derive(Default)]
struct Exchanges(VecDeque<Exchange>);

struct Exchange {
    /// True if it has said what it wants. Set by its own task.
    asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Exchanges {
    /// Has room for one more, for which somebody may have to go: so that nobody who is slow, and be it by intent, keeps others
    /// from being answered. Returns what the new one tells when it has asked.
    fn make_room(&mut self) -> Arc<AtomicBool> {
        self.0.retain(|exchange| !exchange.task.is_finished());
        if self.0.len() >= AT_ONCE {
            let silent = self.0.iter().position(|exchange| !exchange.asked.load(Ordering::Relaxed));
            if let Some(exchange) = self.0.remove(silent.unwrap_or(0)) {
                exchange.task.abort();
            }
        }
        Arc::default()
    }
}

/// The pages there are to see.
struct Pages {
    view: Box<ViewMaker>,
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers().get(ACCEPT)),
            // That there is an answer is the answer.
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.readiness(asked_for(request.uri().query().unwrap_or_default(), "service")),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    /// Of the instance, or of one service of it.
    fn readiness(&self, service: Option<&str>) -> Response<Full<Bytes>> {
        match (self.view)(Scope::Service(service)).readiness(service) {
            Readiness::Ready(notes) => {
                let lines: Vec<String> = std::iter::once("ready".to_owned()).chain(notes).collect();
                text(StatusCode::OK, &format!("{}\n", lines.join("\n")))
            }
            Readiness::Not(reasons) => {
                text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", reasons.join("\n")))
            }
            Readiness::Unknown => text(StatusCode::NOT_FOUND, "there is no such service\n"),
        }
    }

    fn metrics(&self, accept: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let accepts = |kind: &str| {
            accept.is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains(kind)))
        };
        let (format, kind) = if accepts("application/openmetrics-text") {
            (TextFormat::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            (TextFormat::Prometheus, "text/plain; version=0.0.4; charset=utf-8")
        };
        match exposition((self.view)(Scope::Instance), format) {
            Ok(metrics) => {
                let mut answer = Response::new(Full::from(metrics));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                answer
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("write metrics: {error}\n")),
        }
    }
}

/// The value of `key` in a query. Names of services have no character that would have to be written otherwise there.
fn asked_for<'q>(query: &'q str, key: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(one, _)| *one == key).map(|(_, value)| value))
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests;
