//! A DNS server that answers what a test wants, when it wants. Written here because no server of a distribution can be told
//! within a test to be silent, to fail, or to say something else in a moment; hickory-proto does the encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::netns::Netns;
use crate::path::Family;

/// The longest answer in a datagram; a longer one is asked for again over TCP.
const LONGEST_DATAGRAM: usize = 1232;

/// The behaviour of the server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Manner {
    /// It answers.
    #[default]
    Answer,
    /// It says that it cannot.
    Fail,
    /// It says nothing.
    Silence,
}

/// A server that answers until the test ends.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    queries: Arc<AtomicUsize>,
    queries_over_tcp: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Zone {
    manner: Manner,
    /// The only name that is answered while the server is silent.
    spoken_of: Option<String>,
    /// Names, and kinds of their records, that are not answered.
    ignored: BTreeSet<(String, RecordType)>,
    ttl: u32,
    records: BTreeMap<String, Vec<RData>>,
}

impl NameServer {
    /// Answers at `address` in `netns`, on any port; nothing exists yet.
    pub fn start(netns: &Netns, address: IpAddr) -> Self {
        Self::start_at(netns, SocketAddr::new(address, 0))
    }

    /// Answers at `address`, and on its port if that is not 0.
    pub fn start_at(netns: &Netns, address: SocketAddr) -> Self {
        let (socket, listener) = netns.run(|| sockets(address)).expect("bind the name server");
        let address = socket.local_addr().expect("the name server's address");
        let zone = Arc::new(Mutex::new(Zone { ttl: 1, ..Zone::default() }));
        let [queries, queries_over_tcp] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (answering, counting) = (Arc::clone(&zone), Arc::clone(&queries_over_tcp));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (zone, count) = (Arc::clone(&answering), Arc::clone(&counting));
                // A client that is gone needs no answer.
                std::thread::spawn(move || answer_over_tcp(&zone, &count, &stream));
            }
        });
        let (answering, counting) = (Arc::clone(&zone), Arc::clone(&queries));
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                counting.fetch_add(1, Ordering::Relaxed);
                let Ok(query) = Message::from_vec(&query[..length]) else { continue };
                let answer = answering.lock().unwrap().answer(&query);
                if let Some(mut answer) = answer {
                    let mut bytes = answer.to_vec().expect("encode an answer");
                    if bytes.len() > LONGEST_DATAGRAM {
                        answer.answers.clear();
                        answer.metadata.truncation = true;
                        bytes = answer.to_vec().expect("encode an answer");
                    }
                    let _ = socket.send_to(&bytes, client);
                }
            }
        });
        Self { address, zone, queries, queries_over_tcp }
    }

    /// The address at which it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The section of a configuration that has it asked.
    pub fn section(&self, timeout: Duration) -> String {
        format!("[resolver]\nservers = [\"{}\"]\ntimeout = \"{}ms\"\n", self.address, timeout.as_millis())
    }

    /// Replaces the addresses of `name`; without any the name exists no more.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A((*address).into()),
            IpAddr::V6(address) => RData::AAAA((*address).into()),
        });
        self.zone.lock().unwrap().records.insert(format!("{name}."), data.collect());
    }

    /// Replaces the SRV records of `name`: priority, weight, port and target.
    pub fn set_service(&self, name: &str, targets: &[(u16, u16, u16, &str)]) {
        let data = targets.iter().map(|(priority, weight, port, target)| {
            let target = Name::from_ascii(format!("{target}.")).expect("a name");
            RData::SRV(SRV::new(*priority, *weight, *port, target))
        });
        self.zone.lock().unwrap().records.insert(format!("{name}."), data.collect());
    }

    /// Behaves so from now on.
    pub fn behave(&self, manner: Manner) {
        self.zone.lock().unwrap().manner = manner;
    }

    /// Says nothing from now on but what `name` is.
    pub fn silence_but(&self, name: &str) {
        let mut zone = self.zone.lock().unwrap();
        zone.manner = Manner::Silence;
        zone.spoken_of = Some(format!("{name}."));
    }

    /// Never answers from now on when the addresses of `family` of `name` are asked for.
    pub fn ignore(&self, name: &str, family: Family) {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        self.zone.lock().unwrap().ignored.insert((format!("{name}."), kind));
    }

    /// Has all answers used for so many seconds from now on.
    pub fn keep_for(&self, seconds: u32) {
        self.zone.lock().unwrap().ttl = seconds;
    }

    /// The number of queries that have come in datagrams.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }

    /// The number of those that have come over TCP.
    pub fn queries_over_tcp(&self) -> usize {
        self.queries_over_tcp.load(Ordering::Relaxed)
    }
}

/// A socket of each kind with the same port.
fn sockets(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut failed = None;
    for _ in 0..9 {
        let socket = UdpSocket::bind(address)?;
        match TcpListener::bind(socket.local_addr()?) {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn answer_over_tcp(zone: &Mutex<Zone>, count: &AtomicUsize, mut stream: &TcpStream) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        count.fetch_add(1, Ordering::Relaxed);
        let Ok(query) = Message::from_vec(&query) else { return Ok(()) };
        let Some(answer) = zone.lock().unwrap().answer(&query) else { continue };
        let bytes = answer.to_vec().expect("encode an answer");
        stream.write_all(&u16::try_from(bytes.len()).expect("a short answer").to_be_bytes())?;
        stream.write_all(&bytes)?;
    }
}

impl Zone {
    fn answer(&self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?;
        let mut answer = query.clone().into_response();
        let name = question.name().to_ascii().to_lowercase();
        if self.ignored.contains(&(name.clone(), question.query_type())) {
            return None;
        }
        match self.manner {
            Manner::Silence if self.spoken_of.as_ref() != Some(&name) => return None,
            Manner::Fail => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return Some(answer);
            }
            Manner::Answer | Manner::Silence => {}
        }
        let Some(records) = self.records.get(&name).filter(|records| !records.is_empty()) else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return Some(answer);
        };
        let kind: RecordType = question.query_type();
        for data in records.iter().filter(|data| data.record_type() == kind) {
            answer.add_answer(Record::from_rdata(question.name().clone(), self.ttl, data.clone()));
        }
        Some(answer)
    }
}
