//! A name server that tells the truth, says that there is nothing, says nothing, fails, turns addresses round, and says that
//! a server is on loopback, where only this host's own processes may come.

use std::net::IpAddr;
use std::time::Duration;

use spectrum_tests::name_server::{Manner, NameServer};
use spectrum_tests::random::Random;

use super::Siegeworks;

/// The name that is lied about.
pub(crate) const NAME: &str = "far.test";

/// Lies until the siege is over, then tells the truth: `places`.
pub(crate) fn lie(server: &NameServer, places: &[IpAddr], until: &Siegeworks, mut random: Random) {
    let loopback: IpAddr = "127.0.0.1".parse().expect("an address");
    let mut turned = places.to_vec();
    server.keep_for(1);
    while until.go_on() {
        let mut manner = Manner::Answer;
        match random.below::<u8>(6) {
            0 => server.set(NAME, &[]),
            1 => manner = Manner::Silence,
            2 => manner = Manner::Fail,
            3 => server.set(NAME, &[loopback]),
            4 => {
                turned.rotate_left(1);
                server.set(NAME, &turned);
            }
            _ => server.set(NAME, &[&[loopback], places].concat()),
        }
        server.behave(manner);
        until.pass_some(Duration::from_secs(4), &mut random);
        server.behave(Manner::Answer);
        server.set(NAME, places);
        until.pass_some(Duration::from_secs(4), &mut random);
    }
    server.behave(Manner::Answer);
    server.set(NAME, places);
}
