//! Looking at the kernel for what the instance has raised, and putting back what somebody else took away. When to look, and
//! whether putting back is worth it, is decided elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::running::{Running, Steering, registry};
use crate::control::ControlServer;
use crate::instance::{Judgement, Look, News, Resource, ResourceKind, Watch, named};
use crate::model::{DestinationId, Prefix};

/// The pause between looks at the program's attachment, of which nobody tells: it costs a system call.
const GLANCE: Duration = Duration::from_millis(200);

/// The same of the files in the run directory.
const FILES: Duration = Duration::from_millis(400);

/// The same of the listeners in the program's map, and of iptables-legacy's rules, for which programs are run.
const SLOWER: Duration = Duration::from_millis(700);

/// The pause for what is not there at all.
const NEVER: Duration = Duration::from_hours(1);

/// So many listeners are looked at at once.
const LISTENERS: usize = 256;

/// Others may be starting: then there will be another look.
const PATIENCE: Duration = Duration::from_millis(100);

/// The state in which the program's map is left after a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leave {
    AsFound,
    Registered,
}

impl Running {
    /// Looks at things of `kinds`, and puts back what is missing.
    pub(super) async fn look(&mut self, kinds: Vec<ResourceKind>, watch: &mut Watch) {
        for kind in kinds {
            if self.stop_asked.is_asked() {
                return;
            }
            let begun = Instant::now();
            let look = self.look_at(kind, watch).await;
            watch.looked(kind, look, begun.elapsed(), self.untold(kind));
        }
    }

    async fn look_at(&mut self, kind: ResourceKind, watch: &mut Watch) -> Look {
        let author = watch.author(kind);
        let missing = match self.surely_missing(kind).await {
            Ok(missing) if missing.is_empty() && watch.is_touched(kind) => self.touchable(kind),
            Ok(missing) => missing,
            Err(error) => {
                tracing::debug!("look for {}: {error:#}", kind.as_str());
                return Look::Missing;
            }
        };
        if missing.is_empty() {
            watch.renewed(kind);
            if self.repairs.whole(kind) == News::New {
                tracing::info!(what = kind.as_str(), "what was missing is there again");
                self.tell_faults();
            }
            return Look::Whole;
        }
        let by = author.as_ref().map_or_else(|| "somebody".to_owned(), ToString::to_string);
        let what = kind.as_str();
        let most = self.config.repairs.per_minute;
        let look = match self.repairs.judge(kind, &missing, author.as_ref(), most, Instant::now()) {
            Judgement::Leave(News::Known) => Look::Missing,
            Judgement::Leave(News::New) => {
                let why = if most == 0 {
                    "nothing is put back, since repairing is switched off".to_owned()
                } else {
                    format!("put back {most} times within a minute, it is left alone for another")
                };
                tracing::warn!(what, by, "{} missing: {why}", named(&missing));
                Look::Missing
            }
            Judgement::PutBack => match self.put_back(kind, &missing).await {
                Ok(()) => {
                    self.repairs.done(kind, Instant::now());
                    watch.renewed(kind);
                    tracing::warn!(what, by, "put back what was removed: {}", named(&missing));
                    Look::Whole
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.repairs.failed(kind, &missing, author.as_ref(), error.clone()) == News::New {
                        tracing::warn!(what, by, "{} missing, and not put back: {error}", named(&missing));
                    }
                    Look::Missing
                }
            },
        };
        self.tell_faults();
        look
    }

    /// Puts back whatever is missing, however often that was done. What cannot be is said.
    pub(super) async fn mend(&mut self) {
        for kind in ResourceKind::ALL {
            let mended = match self.surely_missing(kind).await {
                Ok(missing) if missing.is_empty() => {
                    self.repairs.whole(kind);
                    continue;
                }
                Ok(missing) => self.put_back(kind, &missing).await.map(|()| missing),
                Err(error) => Err(error),
            };
            match mended {
                Ok(missing) => {
                    self.repairs.done(kind, Instant::now());
                    tracing::warn!(what = kind.as_str(), "put back what was removed: {}", named(&missing));
                }
                Err(error) => tracing::warn!("put back what was removed: {error:#}"),
            }
        }
        self.tell_faults();
    }

    /// Tells what is missing to who asks for readiness.
    fn tell_faults(&self) {
        self.readiness.hindered(self.repairs.faults().hindrances());
    }

    /// The pause before things of `kind` are looked at again if nobody tells of them: `None` where somebody does.
    fn untold(&self, kind: ResourceKind) -> Option<Duration> {
        match (kind, &self.steering) {
            (ResourceKind::Claim | ResourceKind::Control, _) => Some(FILES),
            (ResourceKind::Attachment, Some(Steering::SkLookup(_))) => Some(GLANCE),
            (ResourceKind::Registration, Some(Steering::SkLookup(_))) => Some(SLOWER),
            (ResourceKind::Rules, Some(Steering::Tproxy(tproxy))) => tproxy.is_untold().then_some(SLOWER),
            (ResourceKind::Attachment | ResourceKind::Registration | ResourceKind::Rules, _) => Some(NEVER),
            (ResourceKind::Exemption | ResourceKind::Mark | ResourceKind::Reply | ResourceKind::Route, _) => {
                None
            }
        }
    }

    /// The things of `kind` that others may have changed without a trace: the elements of maps are not looked at.
    fn touchable(&self, kind: ResourceKind) -> Vec<Resource> {
        match (kind, &self.steering) {
            (ResourceKind::Rules, Some(Steering::Tproxy(_))) => vec![Resource::Rules],
            (ResourceKind::Mark, _) if self.replies.mark().is_some() => vec![Resource::Mark],
            (ResourceKind::Exemption, _) if self.exempting.part().is_some() => vec![Resource::Exemption],
            _ => Vec::new(),
        }
    }

    /// The things of `kind` that are missing.
    async fn surely_missing(&mut self, kind: ResourceKind) -> anyhow::Result<Vec<Resource>> {
        let missing = self.missing(kind).await?;
        let is_listed = matches!(kind, ResourceKind::Exemption | ResourceKind::Mark | ResourceKind::Rules);
        // The programs of the firewall fail now and then on a busy machine, in words that also mean that a table is not there.
        if is_listed && !missing.is_empty() { self.missing(kind).await } else { Ok(missing) }
    }

    /// The same, by one look.
    async fn missing(&mut self, kind: ResourceKind) -> anyhow::Result<Vec<Resource>> {
        let whole = |is_whole: bool, resource| if is_whole { Vec::new() } else { vec![resource] };
        Ok(match kind {
            ResourceKind::Claim => {
                whole(self.claim.as_ref().is_none_or(crate::instance::Claim::is_seen), Resource::Claim)
            }
            ResourceKind::Control => {
                whole(self.control.as_ref().is_none_or(ControlServer::is_found), Resource::Control)
            }
            ResourceKind::Attachment => match &self.steering {
                Some(Steering::SkLookup(dispatcher)) => {
                    whole(dispatcher.is_attached(namespace()?)?, Resource::Attachment)
                }
                _ => Vec::new(),
            },
            ResourceKind::Registration => {
                self.unregistered(Leave::AsFound)?.into_iter().map(Resource::Registration).collect()
            }
            ResourceKind::Route => match &mut self.routes {
                Some(routes) => {
                    let wanted: BTreeSet<Prefix> =
                        self.plan.routes.iter().chain(routes.added()).copied().collect();
                    routes.absent(&wanted).await?.into_iter().map(Resource::Route).collect()
                }
                None => Vec::new(),
            },
            ResourceKind::Reply => {
                let broken = self.replies.broken(self.chain()?).await?;
                broken.into_iter().map(Resource::Reply).collect()
            }
            ResourceKind::Mark => match self.replies.mark() {
                Some(mark) => whole(mark.is_whole()?, Resource::Mark),
                None => Vec::new(),
            },
            ResourceKind::Exemption => whole(self.exempting.is_whole()?, Resource::Exemption),
            ResourceKind::Rules => match &self.steering {
                Some(Steering::Tproxy(tproxy)) => whole(tproxy.damaged()?.is_empty(), Resource::Rules),
                _ => Vec::new(),
            },
        })
    }

    /// Puts back what is `missing` of `kind`.
    async fn put_back(&mut self, kind: ResourceKind, missing: &[Resource]) -> anyhow::Result<()> {
        match kind {
            ResourceKind::Claim => self.claim_again(),
            ResourceKind::Control => self.listen_for_requests(),
            ResourceKind::Attachment => match &mut self.steering {
                Some(Steering::SkLookup(dispatcher)) => {
                    // What is left of the link leads nowhere.
                    if let Err(error) = dispatcher.detach() {
                        tracing::debug!(%error, "let go of a link that was detached");
                    }
                    Ok(dispatcher.attach(namespace()?)?)
                }
                _ => Ok(()),
            },
            ResourceKind::Registration => self.unregistered(Leave::Registered).map(drop),
            ResourceKind::Route => {
                let prefixes = missing.iter().filter_map(|resource| match resource {
                    Resource::Route(prefix) => Some(*prefix),
                    _ => None,
                });
                let prefixes: Vec<Prefix> = prefixes.collect();
                let routes = self.routes.as_mut().context("put back routes before there are any")?;
                Ok(routes.put_back(&prefixes).await?)
            }
            ResourceKind::Reply => {
                let chain = self.chain()?.clone();
                self.replies.put_back_routes(&chain).await
            }
            ResourceKind::Mark => self.replies.put_back_mark(),
            ResourceKind::Exemption => self.exempting.put_back(),
            ResourceKind::Rules => match &mut self.steering {
                Some(Steering::Tproxy(tproxy)) => Ok(tproxy.put_back()?),
                _ => Ok(()),
            },
        }
    }

    /// Writes the state file anew, unless somebody has taken a prefix of ours meanwhile.
    fn claim_again(&mut self) -> anyhow::Result<()> {
        let mode = self.mode().context("claim before steering")?;
        let registry = registry()?;
        let lock = registry.lock_unless(PATIENCE, || self.stop_asked.is_asked())?;
        let claim = self.claim.as_mut().context("claim again without a claim")?;
        let prefixes = claim.instance().prefixes.clone();
        Ok(lock.amend(claim, mode, &prefixes)?)
    }

    /// Has a control socket, in the place of one there may have been.
    pub(super) fn listen_for_requests(&mut self) -> anyhow::Result<()> {
        let path = self.claim.as_ref().context("listen without a claim")?.control_socket();
        // The directory may have gone, too.
        registry()?;
        // It removes what is at its path.
        drop(self.control.take());
        let (handle, requests) = &self.hearing;
        self.control = Some(ControlServer::listen(&path, handle, requests.clone())?);
        Ok(())
    }

    /// Destinations that had lost their place in the program's map. The kernel only tells by taking them in.
    fn unregistered(&mut self, leave: Leave) -> anyhow::Result<Vec<DestinationId>> {
        let Some(Steering::SkLookup(dispatcher)) = &mut self.steering else { return Ok(Vec::new()) };
        let mut lost = Vec::new();
        let ids =
            self.listeners.range(self.next_listener..).chain(self.listeners.range(..self.next_listener));
        for (id, group) in ids.take(LISTENERS) {
            let socket = match group.borrowed() {
                Ok(socket) => socket,
                // Its worker is closing it, or may not be looked into.
                Err(error) => {
                    tracing::trace!(%id, %error, "look at a listener");
                    continue;
                }
            };
            if dispatcher.register_again(*id, &socket)? {
                lost.push(*id);
            }
        }
        if leave == Leave::AsFound {
            for id in &lost {
                dispatcher.unregister(*id)?;
            }
            if lost.is_empty() && self.listeners.len() > LISTENERS {
                self.next_listener = self
                    .listeners
                    .range(self.next_listener..)
                    .nth(LISTENERS)
                    .map_or(DestinationId(0), |(id, _)| *id);
            }
        }
        Ok(lost)
    }
}

/// The network namespace that this thread is in.
fn namespace() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}
