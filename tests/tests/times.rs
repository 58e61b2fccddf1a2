//! Connections that have had their time, through the program: each ends in its own way, reset on both sides. What is said
//! on a connection that ends by itself is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::call;
use spectrum_tests::instance::Instance;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::record::records;
use spectrum_tests::veth;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    connection_on_which_nothing_moves_ends_as_idle,
    connection_whose_origin_has_ended_ends_as_half_closed,
    busy_connection_ends_with_its_lifetime,
    client_that_makes_no_room_ends_as_idle,
    client_that_vanishes_ends_as_timed_out,
);

// These are the same on every path.
on_one_path!(thousands_of_idle_connections_leave_the_others_alone,);

/// The port of a service without an origin.
const ANSWERED: u16 = 7;

/// A program whose service has these timeouts, in front of an origin that hands its connections over.
struct Scene {
    instance: Instance,
    target: SocketAddr,
    accepted: Receiver<TcpStream>,
}

impl Scene {
    fn open(case: &mut Case, timeouts: &str) -> Self {
        let (sender, accepted) = mpsc::channel();
        let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            sender.send(stream).map_err(std::io::Error::other)
        });
        let text = format!(
            "[[service]]\nname = \"timed\"\nbindings = [{{ prefix = \"{prefix}\" }}]\norigins = [\"{}\"]\ntimeouts = {{ {timeouts} }}\n\
             [[service]]\nname = \"answered\"\nbindings = [{{ prefix = \"{prefix}\", ports = {ANSWERED} }}]\nrespond = \"echo\"\n",
            origin.address(),
            prefix = case.prefix(),
        );
        configure(&case.server, &text);
        let instance = case.start(CONFIG);
        // Not the other service's port.
        let target = SocketAddr::new(case.any_address(), 8_000);
        Self { instance, target, accepted }
    }

    fn dial(&self, case: &Case) -> (TcpStream, TcpStream) {
        let client = call(&case.server, self.target).unwrap();
        (client, self.accepted.recv_timeout(PATIENCE).unwrap())
    }

    /// Waits for the record of the only connection that there was.
    fn assert_ended(&self, end: &str, status: &str) {
        let seen = eventually("the record", PATIENCE, || {
            let log = self.instance.stderr();
            records(&log).first().map(|record| [record["end"], record["status"]].map(str::to_owned))
        });
        assert_eq!(seen, [end, status]);
    }
}

/// Reads until nothing more comes, which must be for a reset.
fn assert_reset(mut stream: &TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    let error = loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("a connection that was cut ends as if it were complete"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn connection_on_which_nothing_moves_ends_as_idle(case: &mut Case) {
    let scene = Scene::open(case, "idle = \"300ms\"");
    let (client, origin) = scene.dial(case);
    assert_reset(&client);
    assert_reset(&origin);
    scene.assert_ended("idle", "200");
}

fn connection_whose_origin_has_ended_ends_as_half_closed(case: &mut Case) {
    let scene = Scene::open(case, "half-closed = \"300ms\"");
    let (mut client, origin) = scene.dial(case);
    origin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the origin's FIN");
    assert_reset(&origin);
    eventually("the reset", PATIENCE, || client.write_all(b"x").err());
    scene.assert_ended("expired-half-closed", "200");
}

fn busy_connection_ends_with_its_lifetime(case: &mut Case) {
    let scene = Scene::open(case, "lifetime = \"700ms\", idle = \"400ms\"");
    let (mut client, mut origin) = scene.dial(case);
    let talker = thread::spawn(move || {
        while client.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let mut heard = 0;
    let error = loop {
        match origin.read(&mut [0; 64]) {
            Ok(0) => panic!("a connection that was cut ends as if it were complete"),
            Ok(bytes) => heard += bytes,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(heard >= 8, "heard {heard} bytes: it ended before the idle time");
    talker.join().unwrap();
    scene.assert_ended("expired-lifetime", "200");
}

fn client_that_makes_no_room_ends_as_idle(case: &mut Case) {
    let scene = Scene::open(case, "idle = \"500ms\"");
    let (client, mut origin) = scene.dial(case);
    // Until the origin's own socket is closed by the reset: all buffers between are full by then.
    let error = loop {
        if let Err(error) = origin.write_all(&vec![0; 100_000]) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    scene.assert_ended("idle", "200");
    drop(client);
}

fn client_that_vanishes_ends_as_timed_out(case: &mut Case) {
    let remote = veth::client_of(&case.server);
    let scene = Scene::open(case, "unacknowledged = \"500ms\"");
    let client = call(&remote, scene.target).unwrap();
    let mut origin = scene.accepted.recv_timeout(PATIENCE).unwrap();
    remote.ip("link set to-server down");
    origin.write_all(b"nobody hears this").unwrap();
    assert_reset(&origin);
    scene.assert_ended("downstream-timed-out", "497");
    drop(client);
}

fn thousands_of_idle_connections_leave_the_others_alone(case: &mut Case) {
    const TOTAL: u64 = 200 << 20;
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Those with an origin take two descriptors in the program and two here, the others one: ten thousand of both kinds
    // where 20,000 are allowed, and as many as go where fewer are. Three quarters of the descriptors are one service's at most,
    // where there are two.
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let [with_origin, without] =
        [6_500, 3_500].map(|most| most.min(usize::try_from(allowed).unwrap() * most / 20_000));
    let scene = Scene::open(case, "idle = \"1h\"");
    let mut idle = Vec::new();
    while idle.len() < with_origin {
        let some = dial_many(case, scene.target, 50);
        // Two workers dial as they come to it, so which origin's socket is whose is not known, nor of interest.
        idle.extend(some.into_iter().map(|client| (client, scene.accepted.recv_timeout(PATIENCE).unwrap())));
    }
    let answered = dial_many(case, SocketAddr::new(scene.target.ip(), ANSWERED), without);
    let (client, mut origin) = scene.dial(case);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_sequence(&origin, 7, TOTAL).unwrap();
        });
        receive_sequence(&client, 7, TOTAL).unwrap();
    });
    // The idle ones are still there.
    for (client, _) in &idle {
        { client }.write_all(b"still").unwrap();
    }
    for (_, origin) in &idle {
        let mut word = [0; 5];
        { origin }.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"still");
    }
    for stream in &answered {
        { stream }.write_all(b"still").unwrap();
        let mut word = [0; 5];
        { stream }.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"still");
    }
    drop(client);
    assert_eq!(origin.read(&mut [0]).unwrap(), 0);
}

fn dial_many(case: &Case, target: SocketAddr, count: usize) -> Vec<TcpStream> {
    case.server.run(|| (0..count).map(|_| TcpStream::connect(target).unwrap()).collect())
}
