//! Health checks by UDP: a datagram to an address, which must answer it. What is asked is `probe`'s affair, when `check`'s.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::probe::AskedProbe;
use crate::model::DatagramProbe;

/// Longer than any answer that is looked at.
const LONGEST: usize = 2048;

/// Asks `address`, and returns how long a good answer took. Others are no answers, whoever they are from.
pub(super) async fn answers(
    address: SocketAddr,
    probe: &DatagramProbe,
    within: Duration,
) -> io::Result<Duration> {
    let own = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(address).await?;
    let asked = AskedProbe::new(probe, socket.local_addr()?, address);
    let began = Instant::now();
    let mut heard = None;
    let answered = async {
        if let Some(first) = &asked.first {
            socket.send(first).await?;
        }
        socket.send(&asked.datagram).await?;
        let mut answer = [0; LONGEST];
        loop {
            let length = socket.recv(&mut answer).await?;
            if asked.is_answered_by(answer.get(..length).unwrap_or_default()) {
                return Ok(began.elapsed());
            }
            heard = Some(length);
        }
    };
    match timeout(within, answered).await {
        Ok(answered) => answered,
        Err(_elapsed) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            match heard {
                None => "no answer in time".to_owned(),
                Some(length) => format!("no good answer in time; the last had {length} bytes"),
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Question;

    fn ping() -> DatagramProbe {
        let question = Question::Bytes { send: "ping".parse().unwrap(), expect: "pong".parse().unwrap() };
        DatagramProbe { question, header: None }
    }

    #[tokio::test]
    async fn a_good_answer_is_awaited_past_others() {
        for own in ["127.0.0.1:0", "[::1]:0"] {
            let origin = UdpSocket::bind(own).await.unwrap();
            let address = origin.local_addr().unwrap();
            let serve = async {
                let (length, client) = origin.recv_from(&mut [0; 16]).await.unwrap();
                assert_eq!(length, 4);
                for answer in [&b"what?"[..], b"pong"] {
                    origin.send_to(answer, client).await.unwrap();
                }
            };
            let probe = ping();
            let (answered, ()) = tokio::join!(answers(address, &probe, Duration::from_secs(20)), serve);
            assert!(answered.is_ok(), "{answered:?}");
        }
    }

    #[tokio::test]
    async fn nobody_a_wrong_answer_and_silence_are_told_apart() {
        let origin = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = origin.local_addr().unwrap();
        let short = Duration::from_millis(100);
        let error = answers(address, &ping(), short).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer in time");
        let mut question = [0; 16];
        let (_, _former) = origin.recv_from(&mut question).await.unwrap();
        let probe = ping();
        let serve = async {
            let (_, client) = origin.recv_from(&mut question).await.unwrap();
            origin.send_to(b"what?", client).await.unwrap();
        };
        let (answered, ()) = tokio::join!(answers(address, &probe, Duration::from_secs(1)), serve);
        assert_eq!(answered.unwrap_err().to_string(), "no good answer in time; the last had 5 bytes");
        drop(origin);
        let error = answers(address, &ping(), Duration::from_secs(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
