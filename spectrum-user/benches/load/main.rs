//! The client and the origin of `cargo xtask bench proxy` and `udp`, in one thread, so that what stands between them is what limits.
//! Obeys a line of standard input at a time and answers with a line of JSON. Knows nothing of the proxies that it dials.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod client;
mod datagrams;
mod exchange;
mod latency;
mod origin;
mod pace;
mod station;

use std::io::stdin;
use std::net::SocketAddr;
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use datagrams::Ends;
use station::Station;

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut station = Station::open();
    let mut ends = Ends::open(station.origin_address());
    println!("ready {}", station.origin_address());
    for line in stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split_whitespace();
        let order: String = next(&mut words);
        let address: SocketAddr = next(&mut words);
        let answer = match order.as_str() {
            "connect" => exchange::connect(&mut station, address, time(&mut words), next(&mut words)),
            "request" => exchange::request(&mut station, address, time(&mut words), next(&mut words)),
            "bulk" => exchange::bulk(&mut station, address, time(&mut words), next(&mut words)),
            "pace" => pace::pace(
                &mut station,
                address,
                time(&mut words),
                next(&mut words),
                Duration::from_secs_f64(1.0 / next::<f64>(&mut words)),
            ),
            "hold" => exchange::hold(&mut station, address, next(&mut words)),
            "udp-exchange" => datagrams::exchange(&mut ends, address, time(&mut words), next(&mut words)),
            "udp-open" => datagrams::open(&mut ends, address, time(&mut words), next(&mut words)),
            "udp-trains" => datagrams::trains(&mut ends, address, time(&mut words), next(&mut words)),
            "udp-pace" => datagrams::pace(
                &mut ends,
                address,
                time(&mut words),
                next(&mut words),
                Duration::from_secs_f64(1.0 / next::<f64>(&mut words)),
            ),
            "udp-hold" => datagrams::hold(&mut ends, address, next(&mut words), &next::<String>(&mut words)),
            "udp-ports" => datagrams::ports(&mut ends, address, next(&mut words)),
            "release" => exchange::release(&mut station),
            other => panic!("{other}: no such order"),
        };
        println!("{answer}");
    }
}

fn next<T: FromStr<Err: std::fmt::Debug>>(words: &mut SplitWhitespace<'_>) -> T {
    words.next().unwrap().parse().unwrap()
}

fn time(words: &mut SplitWhitespace<'_>) -> Duration {
    Duration::from_millis(next(words))
}
