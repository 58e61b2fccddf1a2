//! The examples of the libraries do what they say. They are compiled into this test, so that it runs wherever tests do; what
//! else the libraries can do is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use spectrum_tests::case;
use spectrum_tests::path::{Family, Path};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[expect(dead_code, reason = "who runs it as a program starts at `main`")]
#[path = "../../spectrum-steering/examples/echo.rs"]
mod echo;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_server_that_embeds_steering_answers_on_any_port_of_ipv4() {
    answers_on_any_port("a_server_that_embeds_steering_answers_on_any_port_of_ipv4", Family::V4);
}

#[test]
fn a_server_that_embeds_steering_answers_on_any_port_of_ipv6() {
    answers_on_any_port("a_server_that_embeds_steering_answers_on_any_port_of_ipv6", Family::V6);
}

fn answers_on_any_port(test: &str, family: Family) {
    case::check(test, Path::SkLookup, family, |case| {
        let prefix = case.prefix().parse().unwrap();
        let dialled: Vec<SocketAddr> =
            [1, 80, 4443, 65535].map(|port| (case.any_address(), port).into()).into();
        case.server.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                tokio::select! {
                    served = echo::serve(prefix) => panic!("serving ended: {served:?}"),
                    () = are_answered(&dialled) => {}
                }
            });
        });
    });
}

async fn are_answered(dialled: &[SocketAddr]) {
    let begun = Instant::now();
    for target in dialled {
        loop {
            match timeout(PATIENCE, exchange(*target)).await.unwrap() {
                Ok(heard) => break assert_eq!(heard, format!("{target}\nping")),
                // It takes a moment to begin.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{target}: {error}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn exchange(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"ping").await?;
    stream.shutdown().await?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    Ok(heard)
}
