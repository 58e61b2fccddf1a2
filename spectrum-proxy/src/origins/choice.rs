//! The turns of a service's origins, for whatever protocol speaks to them, and what an outcome means for the next
//! choice. Opens no socket.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::balance::Balancer;
use super::current_roster::{CurrentRoster, HeldRoster, RosterView};
use super::fault::Fault;
use super::roster::{Member, Place};
use super::standing::{Moment, Standing, Turn};
use super::tally::OpenGuard;
use crate::model::{DatagramHeader, DialSource, Prefix, Protocol, ServiceName};
use crate::report::DialFailure;

/// One worker's choice among the origins of one service.
#[derive(Debug)]
pub(crate) struct Chooser {
    view: RosterView,
    balancer: RefCell<Balancer>,
}

impl Chooser {
    /// The choice among the origins of `current`, for the worker with this index.
    pub(crate) fn new(current: Arc<CurrentRoster>, worker: usize) -> Self {
        let balancer = RefCell::new(Balancer::new(current.origins.balance, worker));
        Self { view: RosterView::new(current), balancer }
    }

    /// The service whose origins these are.
    pub(crate) fn service(&self) -> &ServiceName {
        &self.view.current.service
    }

    /// The address that the origins are to see.
    pub(crate) fn source(&self) -> DialSource {
        self.view.current.origins.source
    }

    /// The prefixes of which sessions of UDP have an address each; empty: the kernel chooses one.
    pub(crate) fn sources(&self) -> &[Prefix] {
        &self.view.current.origins.sources
    }

    /// The header by which they are told by UDP whom they serve.
    pub(crate) fn datagram_header(&self) -> Option<DatagramHeader> {
        self.view.current.origins.datagram_header
    }

    /// The choices that a session of `client` by this protocol has now, none of them made yet.
    pub(crate) fn choices(&self, by: Protocol, client: IpAddr) -> Choices<'_> {
        Choices { chooser: self, roster: self.view.roster(), by, client, tried: RefCell::default() }
    }

    /// The port of `member` for what was steered here by `bound_port`; `None` where it has none.
    pub(crate) fn port(&self, member: &Member, bound_port: u16) -> Option<u16> {
        let origins = &self.view.current.origins;
        member.port.or_else(|| origins.port(origins.list.get(member.origin)?, bound_port))
    }

    /// Counts a session that another process had with `origin`, which may be none of the service's any more.
    pub(crate) fn resume(&self, origin: SocketAddr, bound_port: u16) -> OpenGuard {
        let roster = self.view.roster();
        let is_its = |member: &&Member| self.port(member, bound_port) == Some(origin.port());
        let places = roster.members.iter().filter(is_its).flat_map(|member| &member.places);
        match places.into_iter().find(|place| place.at(origin.port()) == origin) {
            Some(place) => roster.open(place),
            None => OpenGuard::of_nobody(origin.ip()),
        }
    }

    /// Notes that `place` took a connection, on `port`.
    pub(crate) fn succeeded(&self, place: &Place, port: u16) {
        self.note_success(Protocol::Tcp, &place.standing, place.at(port));
    }

    /// Notes that the origin of a session of UDP has answered.
    pub(crate) fn answered(&self, open: &OpenGuard, origin: SocketAddr) {
        self.note_success(Protocol::Udp, open.standing(), origin);
    }

    fn note_success(&self, by: Protocol, standing: &Standing, origin: SocketAddr) {
        if standing.succeeded(by) == Some(Turn::Returned) {
            tracing::info!(service = %self.service(), %origin, "origin is dialled again");
        }
    }

    /// Notes that `place` failed, on `port`, for a reason that is its own.
    pub(crate) fn failed(&self, by: Protocol, place: &Place, port: u16, error: &io::Error) {
        self.note_failure(by, &place.standing, place.at(port), error);
    }

    /// The same of the origin of a session of UDP that is open.
    pub(crate) fn refused(&self, open: &OpenGuard, origin: SocketAddr, error: &io::Error) {
        self.note_failure(Protocol::Udp, open.standing(), origin, error);
    }

    fn note_failure(&self, by: Protocol, standing: &Standing, origin: SocketAddr, error: &io::Error) {
        let ejection = self.view.current.origins.ejection;
        if let (Some(Turn::Ejected), Some(ejection)) =
            (standing.failed(by, Fault::of_dial(error), ejection, Moment::now()), ejection)
        {
            let (service, time) = (self.service(), ejection.time);
            tracing::warn!(%service, %origin, %error, ?time, "origin is not dialled for a time, since dialling it failed so often");
        }
    }
}

/// One session's choices: each member once, and the roster as it was when the first was made.
#[derive(Debug)]
pub(crate) struct Choices<'a> {
    chooser: &'a Chooser,
    roster: Rc<HeldRoster>,
    by: Protocol,
    client: IpAddr,
    tried: RefCell<Vec<usize>>,
}

impl Choices<'_> {
    /// The only member with its only address, where there is no more to choose from.
    pub(crate) fn sole(&self) -> Option<(&Member, &Place)> {
        self.roster.sole()
    }

    /// The member whose turn it is, of those that may be used and had no turn yet.
    pub(crate) fn another(&self) -> Option<&Member> {
        let mut tried = self.tried.borrow_mut();
        let index = {
            let candidates = self.roster.candidates(self.by, &tried);
            self.chooser.balancer.borrow_mut().choose(self.client, candidates)?
        };
        let member = self.roster.members.get(index)?;
        tried.push(index);
        Some(member)
    }

    /// The places of `member` in the order in which this client's session tries them.
    pub(crate) fn places<'m>(&self, member: &'m Member) -> Vec<&'m Place> {
        member.order(self.by, self.chooser.view.current.origins.balance, self.client)
    }

    /// The reason that there is no choice, before any was made.
    pub(crate) fn absence(&self) -> DialFailure {
        if self.roster.members.is_empty() { self.roster.fault } else { DialFailure::Down }
    }

    /// Counts an open session with `place`, for as long as the guard is kept.
    pub(crate) fn open(&self, place: &Place) -> OpenGuard {
        self.roster.open(place)
    }
}
