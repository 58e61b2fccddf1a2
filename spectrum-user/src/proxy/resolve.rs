//! Origin names to addresses, by the system's resolver. Keeps no more than a short-lived cache: the system's resolver
//! does not tell how long an answer may be kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::sync::Mutex;

use crate::model::{Origin, OriginHost};

/// How long an answer is used.
const KEEP: Duration = Duration::from_secs(10);

/// How long a failure is not asked again, so that a storm of connections is not a storm of queries.
const KEEP_FAILURE: Duration = Duration::from_secs(1);

/// An origin that cannot be used because its name has no address.
#[derive(Debug, thiserror::Error)]
#[error("resolve origin {origin}")]
pub struct ResolveError {
    /// The origin, as configured.
    pub origin: Origin,
    /// What the resolver said.
    #[source]
    pub source: io::Error,
}

/// Checks that every origin has an address now, so that a mistyped name is refused at start-up.
///
/// # Errors
/// Every origin that has none, in the order given.
pub async fn resolve_all<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> Result<(), Vec<ResolveError>> {
    let mut errors = Vec::new();
    for origin in origins {
        if let OriginHost::Name(name) = &origin.host
            && let Err(source) = lookup(name).await
        {
            errors.push(ResolveError { origin: origin.clone(), source });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One worker's answers. Lookups run on the runtime's blocking threads, never on the worker itself.
#[derive(Default)]
pub(super) struct Resolver {
    names: RefCell<HashMap<String, Rc<Mutex<Answer>>>>,
}

/// What is known of a name. Locked while it is looked up, so that one query answers everybody who waits.
#[derive(Default)]
struct Answer {
    addresses: Rc<[IpAddr]>,
    until: Option<Instant>,
}

impl Resolver {
    /// The addresses of `host`, empty if there are none. When a name fails, its last addresses are still used.
    pub(super) async fn resolve(&self, host: &OriginHost) -> Rc<[IpAddr]> {
        let name = match host {
            OriginHost::Address(address) => return Rc::new([*address]),
            OriginHost::Name(name) | OriginHost::Service(name) => name,
        };
        let answer = self.answer(name);
        let mut answer = answer.lock().await;
        if answer.until.is_none_or(|until| until <= Instant::now()) {
            let keep = match lookup(name).await {
                Ok(addresses) => {
                    answer.addresses = addresses.into();
                    KEEP
                }
                Err(error) => {
                    tracing::warn!(origin = %name, %error, "resolve origin");
                    KEEP_FAILURE
                }
            };
            answer.until = Some(Instant::now() + keep);
        }
        Rc::clone(&answer.addresses)
    }

    fn answer(&self, name: &str) -> Rc<Mutex<Answer>> {
        let mut names = self.names.borrow_mut();
        if let Some(answer) = names.get(name) {
            return Rc::clone(answer);
        }
        Rc::clone(names.entry(name.to_owned()).or_default())
    }
}

async fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    // The port takes no part in the lookup.
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in lookup_host((name, 0)).await? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}
