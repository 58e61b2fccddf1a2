//! The examples of the libraries do what they say. They are compiled into this test, so that it runs wherever tests do; what
//! else the libraries can do is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use spectrum_steering::{Binding, Bound, Plan, PortRange, Protocol, Steering, SteeringOptions, SteeringPath};
use spectrum_tests::case::Case;
use spectrum_tests::on_one_path;
use spectrum_tests::path::Path;
use spectrum_tests::state::State;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[expect(dead_code, reason = "who runs it as a program starts at `main`")]
#[path = "../../spectrum-steering/examples/echo.rs"]
mod echo;

const PATIENCE: Duration = Duration::from_secs(10);

on_one_path!(a_server_that_embeds_steering_answers_on_any_port, what_is_raised_is_lowered);

fn a_server_that_embeds_steering_answers_on_any_port(case: &mut Case) {
    let prefix = case.prefix().parse().unwrap();
    let dialled: Vec<SocketAddr> = [1, 80, 4443, 65535].map(|port| (case.any_address(), port).into()).into();
    let options = options(case);
    in_namespace(case, async {
        tokio::select! {
            served = echo::serve(prefix, &options) => panic!("serving ended: {served:?}"),
            () = are_answered(&dialled) => {}
        }
    });
}

fn what_is_raised_is_lowered(case: &mut Case) {
    let (prefix, target) = (case.prefix().parse().unwrap(), SocketAddr::new(case.any_address(), 4443));
    let bindings =
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding { protocol, prefix, ports: PortRange::ALL });
    let plan = Plan::of(&[Bound { bindings: bindings.into(), ..Bound::default() }]).unwrap();
    let options = options(case);
    let before = State::of(&case.server);
    in_namespace(case, async {
        // Twice: what the first leaves would be in the way of the second.
        for _ in 0..2 {
            let mut steering = Steering::raise(&plan, &options).await.unwrap();
            assert_eq!(Some(steering.path()), options.path);
            let sockets = steering.take_sockets();
            let protocols: Vec<Protocol> =
                sockets.iter().map(|(destination, _)| destination.protocol).collect();
            assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp]);
            let client = std::net::UdpSocket::bind(SocketAddr::new(case.loopback(), 0)).unwrap();
            client.send_to(b"ping", target).unwrap();
            let listener: std::net::UdpSocket = sockets.into_iter().next_back().unwrap().1.into();
            let listener = tokio::net::UdpSocket::from_std(listener).unwrap();
            let heard = timeout(PATIENCE, listener.recv_from(&mut [0; 8])).await.unwrap().unwrap();
            assert_eq!(heard, (4, client.local_addr().unwrap()));
            drop(listener);
            let errors = steering.lower().await;
            assert!(errors.is_empty(), "{errors:?}");
        }
    });
    before.assert_restored(&case.server, "lowering it twice");
}

/// The options that insist on the case's path.
fn options(case: &Case) -> SteeringOptions {
    let path = match case.path {
        Path::SkLookup => SteeringPath::SkLookup,
        _ => SteeringPath::Tproxy,
    };
    SteeringOptions { path: Some(path), ..SteeringOptions::default() }
}

fn in_namespace(case: &Case, work: impl Future<Output = ()> + Send) {
    case.server.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work);
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
