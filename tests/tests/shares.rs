//! How the kernel divides the clients of a destination among its registered sockets: by packets that nobody sent, and by connections with
//! SYN cookies. What a division is as such is tested in spectrum-common.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, SockRef, Socket, Type};
use spectrum_common::{RegisteredId, SocketShare};
use spectrum_steering::dispatcher::{Dispatcher, Steered};
use spectrum_steering::plan::Plan;
use spectrum_steering::plan::table::Table;
use spectrum_steering::{Binding, Bound, DestinationId, Family, Protocol};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial_all};
use spectrum_tests::netns::Netns;
use spectrum_tests::require::{self, Need};
use spectrum_tests::share;

const PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/64"];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Servers that share the clients of one service, in the namespace of this thread.
struct Servers {
    dispatcher: Dispatcher,
    sockets: Vec<Socket>,
    shares: Vec<SocketShare>,
    plan: Plan,
    protocol: Protocol,
    family: Family,
}

impl Servers {
    fn of(protocol: Protocol, family: Family, weights: &[u16]) -> Self {
        let prefix = PREFIXES[usize::from(family == Family::Ipv6)].parse().unwrap();
        let bindings = vec![Binding { protocol, prefix, ports: "1-65535".parse().unwrap() }];
        let plan = Plan::of(&[Bound { name: "web".parse().unwrap(), bindings, policy: None }]).unwrap();
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        let sockets: Vec<Socket> = weights.iter().map(|_| listener(protocol, family)).collect();
        let share = |(key, (socket, weight)): (u64, (&Socket, &u16))| SocketShare {
            socket: dispatcher.admit(socket).unwrap(),
            key,
            weight: *weight,
            spare: None,
        };
        let shares: Vec<SocketShare> = (0..).zip(sockets.iter().zip(weights)).map(share).collect();
        dispatcher.share(DestinationId(0), &shares).unwrap();
        dispatcher.publish(Table::of(&plan).unwrap().nodes()).unwrap();
        Self { dispatcher, sockets, shares, plan, protocol, family }
    }

    /// Has the namespace's packets steered.
    fn attach(&mut self) {
        self.dispatcher.attach(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    }

    fn share(&mut self) {
        self.dispatcher.share(DestinationId(0), &self.shares).unwrap();
    }

    /// The number of the server that each of so many clients gets; none where it is refused, or goes to a server that we let go of.
    fn judged(&self, clients: Range<u32>) -> Vec<Option<usize>> {
        let cookies = self.sockets.iter().map(|socket| socket.cookie().unwrap());
        let numbers: HashMap<u64, usize> = cookies.zip(0..).collect();
        let to = SocketAddr::new(self.any_address(), 443);
        let judge = |number| {
            let from = self.client(number);
            match self.dispatcher.probe().test(self.protocol, from, to).unwrap() {
                Steered::Assigned { cookie } => numbers.get(&cookie.unwrap()).copied(),
                Steered::Dropped => None,
                Steered::Passed => panic!("{from} is passed on"),
            }
        };
        clients.map(judge).collect()
    }

    /// A client of its own for each number, several of each address.
    fn client(&self, number: u32) -> SocketAddr {
        let (host, port) = (number / 4, u16::try_from(1024 + number % 4 * 9_973).unwrap());
        let address = match self.family {
            Family::Ipv4 => IpAddr::V4((0xc612_0000 + host).into()),
            Family::Ipv6 => IpAddr::V6((0x2001_0002 << 96 | u128::from(host)).into()),
        };
        SocketAddr::new(address, port)
    }

    fn any_address(&self) -> IpAddr {
        match self.family {
            Family::Ipv4 => "192.0.2.7".parse().unwrap(),
            Family::Ipv6 => "2001:db8::7".parse().unwrap(),
        }
    }
}

fn listener(protocol: Protocol, family: Family) -> Socket {
    let (domain, loopback) = match family {
        Family::Ipv4 => (Domain::IPV4, "127.0.0.1:0"),
        Family::Ipv6 => (Domain::IPV6, "[::1]:0"),
    };
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, kind, None).unwrap();
    socket.bind(&loopback.parse::<SocketAddr>().unwrap().into()).unwrap();
    if protocol == Protocol::Tcp {
        socket.listen(4096).unwrap();
    }
    socket
}

/// Runs `body` in a namespace of its own to which both prefixes belong, once for each protocol and family.
fn with_servers(test: &str, protocols: &[Protocol], body: impl Fn(&Netns, Protocol, Family) + Sync) {
    if !require::met(test, &[Need::Netns, Need::Bpf, Need::TestRun, Need::Ipv6]) {
        return;
    }
    for (protocol, family) in protocols.iter().flat_map(|protocol| FAMILIES.map(|family| (*protocol, family)))
    {
        let netns = Netns::create().unwrap();
        for prefix in PREFIXES {
            let family = if prefix.contains(':') { "-6 " } else { "" };
            netns.ip(&format!("{family}route add local {prefix} dev lo"));
        }
        body(&netns, protocol, family);
    }
}

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn parts(judged: &[Option<usize>], servers: usize) -> Vec<f64> {
    let count = |server| judged.iter().filter(|one| **one == Some(server)).count();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let part = |count: usize| count as f64 / judged.len() as f64;
    (0..servers).map(|server| part(count(server))).collect()
}

fn unlike(judged: &[Option<usize>], before: &[Option<usize>]) -> usize {
    judged.iter().zip(before).filter(|(is, was)| is != was).count()
}

#[test]
fn the_kernel_divides_clients_as_the_weights_say() {
    with_servers("the_kernel_divides_clients_as_the_weights_say", &BOTH, |netns, protocol, family| {
        netns.run(|| {
            let servers = Servers::of(protocol, family, &[3, 1, 0, 4]);
            let clients = u32::try_from(share::of(40_000).max(10_000)).unwrap();
            let judged = servers.judged(0..clients);
            for (part, due) in parts(&judged, 4).into_iter().zip([0.375, 0.125, 0.0, 0.5]) {
                assert!(
                    (part - due).abs() < 0.02,
                    "{protocol} {family}: {part} of the clients where {due} are due"
                );
            }
            assert!(judged.iter().all(Option::is_some));
            assert!(servers.judged(0..clients) == judged, "who comes again goes where it went");
            let counts = servers.dispatcher.probe().counts(DestinationId(0)).unwrap();
            assert_eq!((counts.steered, counts.missed), (2 * u64::from(clients), 0));
            for (number, share) in servers.shares.iter().enumerate() {
                let given = judged.iter().filter(|one| **one == Some(number)).count();
                assert_eq!(servers.dispatcher.probe().steered_to(share.socket).unwrap(), 2 * given as u64);
            }
        });
    });
}

#[test]
fn who_leaves_moves_its_own_clients_at_once_and_no_other() {
    let test = "who_leaves_moves_its_own_clients_at_once_and_no_other";
    with_servers(test, &BOTH, |netns, protocol, family| {
        netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[1, 1, 1]);
            let before = servers.judged(0..6_000);
            // Its socket is closed: before anybody says so its clients are the others'.
            let leaver = 1;
            drop(servers.sockets.remove(leaver));
            let number = |now: usize| if now >= leaver { now + 1 } else { now };
            let renumbered = |judged: Vec<Option<usize>>| -> Vec<Option<usize>> {
                judged.into_iter().map(|now| now.map(number)).collect()
            };
            // Not at once: what other tests of this process fork off has the socket until it is another program.
            let dead = eventually("the end of a socket", PATIENCE, || {
                Some(renumbered(servers.judged(0..6_000))).filter(|judged| judged.iter().all(Option::is_some))
            });
            for (was, is) in before.iter().zip(&dead) {
                assert!(if *was == Some(leaver) { is.is_some() && was != is } else { was == is });
            }
            let gone = servers.shares.remove(leaver);
            servers.share();
            servers.dispatcher.dismiss(gone.socket).unwrap_err();
            let after = renumbered(servers.judged(0..6_000));
            assert!(after.iter().all(|now| now.is_some() && *now != Some(leaver)));
            // Whoever came lately is remembered, unless others have taken its place in the memory.
            assert!(unlike(&after, &dead) < 60, "{} of 6,000 clients moved", unlike(&after, &dead));
            for (part, due) in parts(&after, 3).into_iter().zip([0.5, 0.0, 0.5]) {
                assert!((part - due).abs() < 0.03, "{part} of the clients where {due} are due");
            }
        });
    });
}

#[test]
fn clients_that_are_known_stay_where_shares_change_and_new_ones_follow_them() {
    let test = "clients_that_are_known_stay_where_shares_change_and_new_ones_follow_them";
    with_servers(test, &BOTH, |netns, protocol, family| {
        netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[1, 1]);
            let known = servers.judged(0..200);
            for weights in [[0, 1], [1, 0], [0, 0]] {
                servers.shares.iter_mut().zip(weights).for_each(|(share, weight)| share.weight = weight);
                servers.share();
                assert!(unlike(&servers.judged(0..200), &known) < 5, "{weights:?}");
            }
            assert_eq!(servers.judged(200..300), vec![None; 100], "nobody has a weight");
            servers.shares[1].weight = 7;
            servers.share();
            assert_eq!(servers.judged(200..300), vec![Some(1); 100]);
            assert!(unlike(&servers.judged(0..200), &known) < 10);
            // Out of its place nobody goes to it, known or not.
            servers.dispatcher.dismiss(servers.shares[0].socket).unwrap();
            assert_eq!(servers.judged(0..300), vec![Some(1); 300]);
        });
    });
}

#[test]
fn without_shares_all_is_forgotten_and_a_listener_of_its_own_comes_first() {
    let test = "without_shares_all_is_forgotten_and_a_listener_of_its_own_comes_first";
    with_servers(test, &BOTH, |netns, protocol, family| {
        netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[0, 1]);
            assert_eq!(servers.judged(0..100), vec![Some(1); 100]);
            servers.dispatcher.share(DestinationId(0), &[]).unwrap();
            assert_eq!(servers.judged(0..100), vec![None; 100]);
            assert!(servers.dispatcher.shared().is_empty());
            let counts = servers.dispatcher.probe().counts(DestinationId(0)).unwrap();
            assert_eq!((counts.steered, counts.missed), (100, 100));
            servers.share();
            servers.dispatcher.register(DestinationId(0), &servers.sockets[0]).unwrap();
            assert_eq!(servers.judged(0..100), vec![Some(0); 100]);
            servers.dispatcher.unregister(DestinationId(0)).unwrap();
            assert_eq!(servers.judged(0..100), vec![Some(1); 100]);
        });
    });
}

#[test]
fn clients_stay_where_they_are_when_another_dispatcher_takes_over() {
    let test = "clients_stay_where_they_are_when_another_dispatcher_takes_over";
    with_servers(test, &BOTH, |netns, protocol, family| {
        netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[3, 1, 0, 4]);
            let before = servers.judged(0..1_000);
            let former = servers.dispatcher.secret();
            // With maps of another size, so that places move.
            let mut next = Dispatcher::load_with(false, 10_000, former).unwrap();
            let closed = next.admit(&servers.sockets[0]).unwrap();
            next.dismiss(closed).unwrap();
            for share in &mut servers.shares {
                let place = next.admit_from(servers.dispatcher.listeners(), share.socket).unwrap().unwrap();
                assert_eq!(
                    next.probe().registered_cookie(place).unwrap(),
                    servers.dispatcher.probe().registered_cookie(share.socket).unwrap()
                );
                assert_ne!(place, share.socket);
                share.socket = place;
            }
            assert_eq!(next.admit_from(servers.dispatcher.listeners(), RegisteredId(5_000)).unwrap(), None);
            next.share(DestinationId(0), &servers.shares).unwrap();
            next.publish(Table::of(&servers.plan).unwrap().nodes()).unwrap();
            servers.dispatcher = next;
            assert!(servers.judged(0..1_000) == before);
            assert!(servers.judged(1_000..1_200).iter().all(Option::is_some));
        });
    });
}

#[test]
fn a_packet_is_given_by_one_division_while_they_change() {
    let test = "a_packet_is_given_by_one_division_while_they_change";
    with_servers(test, &[Protocol::Tcp], |netns, protocol, family| {
        netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[1, 1, 1]);
            let is_over = AtomicBool::new(false);
            let probe = servers.dispatcher.probe().clone();
            let to = SocketAddr::new(servers.any_address(), 443);
            let clients: Vec<SocketAddr> = (0..256).map(|number| servers.client(number)).collect();
            thread::scope(|scope| {
                let judge = scope.spawn(|| {
                    let mut judged = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        for client in &clients {
                            let steered = probe.test(protocol, *client, to).unwrap();
                            assert!(
                                matches!(steered, Steered::Assigned { .. }),
                                "{client} after {judged}: {steered:?}"
                            );
                            judged += 1;
                        }
                    }
                    judged
                });
                for round in 0..share::of(200).max(20) {
                    let (stays, changes) = (round % 3, (round + 1) % 3);
                    servers.shares[stays].weight = 1;
                    servers.shares[changes].weight = u16::from(round % 2 == 0);
                    servers.share();
                }
                is_over.store(true, Ordering::Relaxed);
                assert!(judge.join().unwrap() > 1_000);
            });
        });
    });
}

/// Answers each connection with the server's number, until the listener is shut down.
fn serve(listener: &Socket, number: usize) {
    let listener: TcpListener = listener.try_clone().unwrap().into();
    while let Ok((mut stream, _)) = listener.accept() {
        // Whoever has hung up is not served.
        let _ = stream.write_all(number.to_string().as_bytes());
    }
}

#[test]
fn every_handshake_by_a_cookie_completes_and_the_parts_are_as_the_weights_say() {
    let test = "every_handshake_by_a_cookie_completes_and_the_parts_are_as_the_weights_say";
    with_servers(test, &[Protocol::Tcp], |netns, protocol, family| {
        netns.sysctl("net/ipv4/tcp_syncookies", "2");
        let mut servers = netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[2, 1, 1]);
            servers.attach();
            servers
        });
        let clients = share::of(4_000).max(2_000);
        let address = |number: usize| match servers.any_address() {
            IpAddr::V4(_) => IpAddr::V4([192, 0, 2, u8::try_from(number % 250).unwrap()].into()),
            IpAddr::V6(_) => format!("2001:db8::{number:x}").parse().unwrap(),
        };
        let port = |number: usize| u16::try_from(1 + number % 60_000).unwrap();
        let targets: Vec<SocketAddr> =
            (0..clients).map(|number| SocketAddr::new(address(number), port(number))).collect();
        let heard = thread::scope(|scope| {
            for (number, socket) in servers.sockets.iter().enumerate() {
                scope.spawn(move || serve(socket, number));
            }
            let heard = dial_all(netns, &targets);
            servers.sockets.iter().for_each(|socket| socket.shutdown(Shutdown::Both).unwrap());
            heard
        });
        let judged: Vec<Option<usize>> = heard
            .into_iter()
            .map(|(target, heard)| {
                Some(heard.unwrap_or_else(|error| panic!("{target}: {error}")).text.parse().unwrap())
            })
            .collect();
        assert_eq!(judged.len(), clients);
        for (part, due) in parts(&judged, 3).into_iter().zip([0.5, 0.25, 0.25]) {
            assert!((part - due).abs() < 0.05, "{family}: {part} of the clients where {due} are due");
        }
        servers.dispatcher.detach().unwrap();
    });
}

/// A server believes only cookies when it has sent some, and the last packet of such a handshake is all that it learns of it.
#[test]
fn a_handshake_that_a_cookie_answered_goes_on_where_it_began() {
    let test = "a_handshake_that_a_cookie_answered_goes_on_where_it_began";
    if !require::met(test, &[Need::Nftables]) {
        return;
    }
    with_servers(test, &[Protocol::Tcp], |netns, protocol, family| {
        netns.sysctl("net/ipv4/tcp_syncookies", "2");
        // Forgotten: what is remembered is what makes the difference.
        for is_forgotten in [false, true] {
            let mut servers = netns.run(|| {
                let mut servers = Servers::of(protocol, family, &[1, 0]);
                servers.attach();
                servers
            });
            let target = SocketAddr::new(servers.any_address(), 443);
            for command in [
                "add table inet held",
                "add chain inet held out { type filter hook output priority -400 ; }",
                "add rule inet held out tcp dport 443 tcp flags & (syn|ack|rst) == ack drop",
            ] {
                netns.command(&format!("nft {command}"));
            }
            let mut clients: Vec<TcpStream> = (0..50).map(|_| call(netns, target).unwrap()).collect();
            netns.run(|| {
                if is_forgotten {
                    servers.dispatcher.share(DestinationId(0), &[]).unwrap();
                }
                servers.shares.iter_mut().zip([0, 1]).for_each(|(share, weight)| share.weight = weight);
                servers.share();
            });
            netns.command("nft delete table inet held");
            let heard: Vec<Option<u8>> = thread::scope(|scope| {
                for (number, socket) in servers.sockets.iter().enumerate() {
                    scope.spawn(move || serve(socket, number));
                }
                let hear = |client: &mut TcpStream| {
                    let mut heard = [0];
                    client.write_all(b"x").ok()?;
                    client.read_exact(&mut heard).ok().map(|()| heard[0])
                };
                let heard = clients.iter_mut().map(hear).collect();
                servers.sockets.iter().for_each(|socket| socket.shutdown(Shutdown::Both).unwrap());
                heard
            });
            let expected = if is_forgotten { None } else { Some(b'0') };
            assert!(heard.iter().all(|one| *one == expected), "{family}, {is_forgotten}: {heard:?}");
        }
    });
}

#[test]
fn what_is_open_stays_where_it_is_when_its_server_is_drained() {
    let test = "what_is_open_stays_where_it_is_when_its_server_is_drained";
    with_servers(test, &[Protocol::Tcp], |netns, protocol, family| {
        let mut servers = netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[1, 1]);
            servers.attach();
            servers
        });
        let target = SocketAddr::new(servers.any_address(), 443);
        servers.sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let accepted = |servers: &Servers, number: usize| -> Vec<TcpStream> {
            let accept = || servers.sockets[number].accept().ok().map(|(socket, _)| socket.into());
            std::iter::from_fn(accept).collect()
        };
        let mut clients: Vec<TcpStream> = (0..40).map(|_| call(netns, target).unwrap()).collect();
        let mut open = [accepted(&servers, 0), accepted(&servers, 1)];
        assert_eq!(open[0].len() + open[1].len(), 40);
        servers.shares[0].weight = 0;
        netns.run(|| servers.share());
        let late: Vec<TcpStream> = (0..40).map(|_| call(netns, target).unwrap()).collect();
        assert_eq!((accepted(&servers, 0).len(), accepted(&servers, 1).len()), (0, 40));
        drop(late);
        // Both ways, of all that was open.
        for stream in open.iter_mut().flatten() {
            SockRef::from(&*stream).set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        for client in &mut clients {
            client.write_all(b"still there?").unwrap();
        }
        for stream in open.iter_mut().flatten() {
            let mut heard = [0; 12];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
        }
        for client in &mut clients {
            let mut heard = [0; 12];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"still there?");
        }
    });
}

#[test]
fn datagrams_of_a_client_come_to_one_server() {
    let test = "datagrams_of_a_client_come_to_one_server";
    with_servers(test, &[Protocol::Udp], |netns, protocol, family| {
        let mut servers = netns.run(|| {
            let mut servers = Servers::of(protocol, family, &[1, 1, 1]);
            servers.attach();
            servers
        });
        let target = SocketAddr::new(servers.any_address(), 53);
        let here: SocketAddr = if family == Family::Ipv4 { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let mut clients_of = [0; 3];
        for _ in 0..60 {
            let client = netns.run(|| UdpSocket::bind(here)).unwrap();
            for said in 0..4_u8 {
                client.send_to(&[said], target).unwrap();
            }
            let port = client.local_addr().unwrap().port();
            let heard: Vec<usize> = servers
                .sockets
                .iter()
                .map(|socket| {
                    let socket: UdpSocket = socket.try_clone().unwrap().into();
                    socket.set_nonblocking(true).unwrap();
                    let mut heard = [0; 8];
                    let next = || socket.recv_from(&mut heard).ok().filter(|(_, from)| from.port() == port);
                    std::iter::from_fn(next).count()
                })
                .collect();
            let server = heard.iter().position(|count| *count > 0).unwrap();
            assert_eq!((heard[server], heard.iter().sum::<usize>()), (4, 4), "{heard:?}");
            clients_of[server] += 1;
        }
        assert!(clients_of.iter().all(|count| *count > 0), "{clients_of:?}");
        servers.dispatcher.detach().unwrap();
    });
}
