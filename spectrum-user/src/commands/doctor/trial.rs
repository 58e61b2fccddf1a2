//! Trying both paths where nobody uses them: in a network namespace that is thrown away. What is tried is what a start
//! does, by the same code; what came of it is judged elsewhere.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use nix::errno::Errno;

use crate::doctor::{Carrier, FirewallTrial, Program, SystemRefusal, Unknown};
use crate::model::{Binding, DestinationId, Family, PortRange, Protocol};
use crate::plan::firewall::{Chain, Firewall, Rule};
use crate::plan::table::Table;
use crate::plan::{Plan, PlannedBinding};
use spectrum_steering::dispatcher::{Dispatcher, DispatcherError, Steered};
use spectrum_steering::host;
use spectrum_steering::tproxy::{self, Backend, SideTable, TproxyError};

/// The outcomes of trying.
pub(super) struct Trials {
    pub(super) program: Result<Program, SystemRefusal>,
    pub(super) firewalls: Result<Vec<FirewallTrial>, Unknown>,
    pub(super) reply_mark: Result<Result<(), SystemRefusal>, Unknown>,
}

/// The namespace in which the program is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TrialNamespace {
    /// The namespace of everybody's packets: it is not attached, and no socket is opened.
    Here,
    /// In a namespace of its own.
    ThrowAway,
}

/// Tries both paths with what is wanted, else with an example.
pub(super) fn all(wanted: Option<&Plan>) -> Trials {
    let firewall = firewall(wanted);
    let tried = host::in_throw_away_namespace(|| {
        let firewalls = tproxy::try_all(&firewall).into_iter().map(trial).collect();
        (program(wanted, TrialNamespace::ThrowAway), firewalls, reply_mark())
    });
    match tried {
        Ok((program, firewalls, mark)) => Trials { program, firewalls: Ok(firewalls), reply_mark: Ok(mark) },
        Err(error) => {
            let why = Unknown(format!("{:#}", anyhow::Error::from(error)));
            let program = program(wanted, TrialNamespace::Here)
                .map(|program| Program { attached: Err(why.clone()), ..program });
            Trials { program, firewalls: Err(why.clone()), reply_mark: Err(why) }
        }
    }
}

/// Makes the reply mark, which goes with the namespace.
fn reply_mark() -> Result<(), SystemRefusal> {
    SideTable::marking(&Chain::of("trial")).map(drop).map_err(|error| firewall_refusal(&error))
}

/// Loads the program and gives it all that a start gives it.
fn program(wanted: Option<&Plan>, namespace: TrialNamespace) -> Result<Program, SystemRefusal> {
    let mut dispatcher = Dispatcher::load(false, 0).map_err(|error| refusal("load", &error))?;
    let made = dispatcher.made().ok();
    let filled = fill(&mut dispatcher, namespace);
    let test_run = match &filled {
        Ok(_) => test(&dispatcher, namespace),
        Err(refusal) => Err(refusal.clone()),
    };
    // The table that is wanted may be a large one.
    let filled = filled.and_then(|_sockets| match wanted {
        Some(plan) => publish(&mut dispatcher, &plan.bindings),
        None => Ok(()),
    });
    let attached = match namespace {
        TrialNamespace::Here => Ok(()),
        TrialNamespace::ThrowAway => attach(&mut dispatcher),
    };
    Ok(Program {
        machine_code: made.map(|made| made.machine_code.into()),
        verified: made.and_then(|made| made.verified),
        filled,
        attached: Ok(attached),
        test_run,
    })
}

fn attach(dispatcher: &mut Dispatcher) -> Result<(), SystemRefusal> {
    let namespace = File::open("/proc/thread-self/ns/net").map_err(|error| SystemRefusal::from(&error))?;
    dispatcher.attach(namespace).map_err(|error| refusal("attach", &error))
}

/// The destination of what [`test`] sends.
const DESTINATION: DestinationId = DestinationId(0);

/// Registers listeners and publishes a table that leads to them. They are there as long as what is returned.
fn fill(
    dispatcher: &mut Dispatcher,
    namespace: TrialNamespace,
) -> Result<Option<(TcpListener, UdpSocket)>, SystemRefusal> {
    let sockets = match namespace {
        TrialNamespace::Here => None,
        TrialNamespace::ThrowAway => {
            // lo is down in a new namespace, so that it has no address to bind to.
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            let opened = TcpListener::bind(any).and_then(|tcp| Ok((tcp, UdpSocket::bind(any)?)));
            let (tcp, udp) = opened.map_err(|error| SystemRefusal::from(&error))?;
            dispatcher.register(DESTINATION, &tcp).map_err(|error| refusal("register a listener", &error))?;
            dispatcher
                .register(DestinationId(1), &udp)
                .map_err(|error| refusal("register a UDP listener", &error))?;
            Some((tcp, udp))
        }
    };
    let bindings: Vec<PlannedBinding> =
        example().into_iter().map(|binding| PlannedBinding { binding, destination: DESTINATION }).collect();
    publish(dispatcher, &bindings)?;
    Ok(sockets)
}

fn publish(dispatcher: &mut Dispatcher, bindings: &[PlannedBinding]) -> Result<(), SystemRefusal> {
    let table = Table::compile(bindings)
        .map_err(|error| SystemRefusal { message: format!("compile the table: {error}"), errno: None })?;
    dispatcher.publish(table.nodes()).map_err(|error| refusal("publish a table", &error))
}

/// The outcome of asking the kernel where a packet goes.
fn test(dispatcher: &Dispatcher, namespace: TrialNamespace) -> Result<(), SystemRefusal> {
    let (from, to) = (SocketAddr::from(([198, 51, 100, 9], 4000)), SocketAddr::from(([192, 0, 2, 7], 4443)));
    let steered = dispatcher
        .probe()
        .test(Protocol::Tcp, from, to)
        .map_err(|error| refusal("run the program", &error))?;
    match (namespace, steered) {
        (TrialNamespace::ThrowAway, Steered::Assigned { .. }) | (TrialNamespace::Here, Steered::Dropped) => {
            Ok(())
        }
        _ => {
            Err(SystemRefusal { message: format!("a test packet was not steered: {steered:?}"), errno: None })
        }
    }
}

/// Bindings that need everything that rules can need.
fn example() -> Vec<Binding> {
    let prefixes =
        [(IpAddr::from([192, 0, 2, 0]), 24), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).into(), 64)]
            .into_iter()
            .filter_map(|(address, length)| crate::model::Prefix::containing(address, length).ok());
    let ports = ["443", "8000-8100"].into_iter().filter_map(|typed| typed.parse().ok());
    let ports: Vec<PortRange> = ports.chain([PortRange::ALL]).collect();
    prefixes
        .flat_map(|prefix| [Protocol::Tcp, Protocol::Udp].map(|protocol| (prefix, protocol)))
        .flat_map(|(prefix, protocol)| {
            ports.iter().map(move |ports| Binding { protocol, prefix, ports: *ports })
        })
        .collect()
}

/// The rules of what is wanted, else of an example, to listeners that nobody has.
fn firewall(wanted: Option<&Plan>) -> Firewall {
    let listener = |binding: &Binding, id: DestinationId| {
        let loopback: IpAddr = match binding.family() {
            Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
            Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(loopback, u16::try_from(id.0 + 1).unwrap_or(u16::MAX))
    };
    let rules = match wanted {
        Some(plan) => plan.bindings.clone(),
        None => example()
            .into_iter()
            .map(|binding| PlannedBinding { binding, destination: DESTINATION })
            .collect(),
    };
    let rules = rules.iter().map(|planned| Rule {
        binding: planned.binding,
        listener: listener(&planned.binding, planned.destination),
    });
    Firewall::of(rules.collect())
}

fn trial(trial: tproxy::Trial) -> FirewallTrial {
    let tproxy::Trial { program, family, backend, outcome } = trial;
    FirewallTrial {
        program,
        family,
        carrier: match backend {
            Some(Backend::Iptables) => Carrier::Iptables,
            Some(Backend::Nftables) => Carrier::Nftables,
            None => Carrier::None,
        },
        outcome: outcome.map_err(|error| firewall_refusal(&error)),
    }
}

fn firewall_refusal(error: &TproxyError) -> SystemRefusal {
    SystemRefusal { message: error.cause(), errno: error.not_permitted().map(|_| libc::EPERM) }
}

/// The errno in words where there is one: what we were doing is in `op`, and cures are the doctor's.
fn refusal(op: &str, error: &DispatcherError) -> SystemRefusal {
    let errno = error.errno();
    let cause = errno.map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_owned());
    SystemRefusal { message: format!("{op}: {cause}"), errno }
}
