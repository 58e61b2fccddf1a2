//! A DNS server that answers what a test wants, when it wants. Written here because no server of a distribution can be told
//! within a test to be silent, to fail, or to say something else in a moment; hickory-proto does the encoding.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::netns::Netns;

/// How the server behaves.
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
}

#[derive(Debug, Default)]
struct Zone {
    manner: Manner,
    ttl: u32,
    records: BTreeMap<String, Vec<RData>>,
}

impl NameServer {
    /// Answers at `address` in `netns`; nothing exists yet.
    pub fn start(netns: &Netns, address: IpAddr) -> Self {
        let socket = netns.run(|| UdpSocket::bind((address, 0))).expect("bind the name server");
        let address = socket.local_addr().expect("the name server's address");
        let zone = Arc::new(Mutex::new(Zone { ttl: 1, ..Zone::default() }));
        let queries = Arc::new(AtomicUsize::new(0));
        let (answering, counting) = (Arc::clone(&zone), Arc::clone(&queries));
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                counting.fetch_add(1, Ordering::Relaxed);
                let Ok(query) = Message::from_vec(&query[..length]) else { continue };
                let answer = answering.lock().unwrap().answer(&query);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer.to_vec().expect("encode an answer"), client);
                }
            }
        });
        Self { address, zone, queries }
    }

    /// Where it answers.
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

    /// How many queries have come.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

impl Zone {
    fn answer(&self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?;
        let mut answer = query.clone().into_response();
        match self.manner {
            Manner::Silence => return None,
            Manner::Fail => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return Some(answer);
            }
            Manner::Answer => {}
        }
        let name = question.name().to_ascii().to_lowercase();
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
