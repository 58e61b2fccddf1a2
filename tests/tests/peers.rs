//! Protocols that everybody uses, through a random port of a random address: TLS, ssh, HTTP/2, and iperf3's bulk. Nothing
//! of them is looked at on the way; what is tested is that nobody notices.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::Instance;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::peer::{Peer, converse, file};
use spectrum_tests::require::{Need, met};
use spectrum_tests::veth::client_of;

on_every_path!(
    tls_of_openssl_passes,
    ssh_logs_in_and_carries_a_file,
    http2_of_nginx_passes,
    iperf3_measures_both_directions,
);

const PORT: u16 = 8081;

fn origin(case: &Case) -> SocketAddr {
    SocketAddr::new(case.loopback(), PORT)
}

/// The program in front of [`origin`], a client of its own, and what the client is to dial.
fn serve(case: &mut Case) -> (Instance, Netns, SocketAddr) {
    let client = client_of(&case.server);
    let instance = case.start(&format!("--prefix {} --origin {}", case.prefix(), origin(case)));
    (instance, client, case.any_target())
}

/// A certificate for whoever presents it, and its key, in the namespace's /run.
fn certify(netns: &Netns) {
    netns.command(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=spectrum.test -keyout \
         /run/key.pem -out /run/certificate.pem",
    );
}

fn random_bytes(case: &mut Case, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    case.random.fill(&mut bytes);
    bytes
}

fn tls_of_openssl_passes(case: &mut Case) {
    if !met("tls_of_openssl_passes", &[Need::Openssl]) {
        return;
    }
    let (_instance, client, target) = serve(case);
    certify(&case.server);
    let server = format!(
        "openssl s_server -accept {} -cert /run/certificate.pem -key /run/key.pem -rev -quiet",
        origin(case)
    );
    let _server = Peer::listening(&case.server, &server, origin(case));
    let certificate = case.server.run(|| fs::read("/run/certificate.pem")).unwrap();
    let certificate = file(&client, "certificate.pem", certificate);
    let command = format!(
        "openssl s_client -connect {target} -servername spectrum.test -CAfile {} -verify_return_error -quiet",
        certificate.display()
    );
    // The server sends each line back in reverse, and ends when it is told to.
    let heard = converse(&client, &command, b"somewhere over the rainbow\nCLOSE\n");
    assert_eq!(String::from_utf8(heard).unwrap().trim(), "wobniar eht revo erehwemos");
}

fn ssh_logs_in_and_carries_a_file(case: &mut Case) {
    const FILE: usize = 1 << 20;
    if !met("ssh_logs_in_and_carries_a_file", &[Need::Ssh]) {
        return;
    }
    let sent = random_bytes(case, FILE);
    let (_instance, client, target) = serve(case);
    case.server.run(|| {
        // Where sshd confines what has not logged in yet; /run is the test's own.
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", Permissions::from_mode(0o755)).unwrap();
    });
    let keygen = "ssh-keygen -q -t ed25519 -N  -f";
    case.server.command(&format!("{keygen} /run/host"));
    case.server.command(&format!("{keygen} /run/user"));
    let configuration = format!(
        "ListenAddress {}\nHostKey /run/host\nAuthorizedKeysFile /run/user.pub\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n",
        origin(case)
    );
    let path = file(&case.server, "sshd.conf", configuration);
    let sshd = spectrum_tests::require::find_in_path("sshd").unwrap();
    let command = format!("{} -D -e -f {}", sshd.display(), path.display());
    let _sshd = Peer::listening(&case.server, &command, origin(case));

    let (user, host) =
        case.server.run(|| (fs::read("/run/user").unwrap(), fs::read_to_string("/run/host.pub").unwrap()));
    let user = file(&client, "user", user);
    client.run(|| fs::set_permissions(&user, Permissions::from_mode(0o600))).unwrap();
    // Whoever answers has to be the server whose key this is.
    let known = file(&client, "known", format!("[{}]:{} {host}", target.ip(), target.port()));
    let command = format!(
        "ssh -F none -i {} -p {} -o BatchMode=yes -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes root@{} cat",
        user.display(),
        target.port(),
        known.display(),
        target.ip()
    );
    assert!(converse(&client, &command, &sent) == sent, "other bytes came back");
}

fn http2_of_nginx_passes(case: &mut Case) {
    const FILE: usize = 4 << 20;
    if !met("http2_of_nginx_passes", &[Need::Nginx, Need::Openssl, Need::Curl]) {
        return;
    }
    let sent = random_bytes(case, FILE);
    let (_instance, client, target) = serve(case);
    certify(&case.server);
    case.server.run(|| fs::create_dir_all("/run/pages")).unwrap();
    file(&case.server, "pages/file", &sent);
    let configuration = format!(
        "daemon off; master_process off; pid /run/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path /run/nginx-body; proxy_temp_path /run/nginx-proxy; fastcgi_temp_path /run/nginx-fastcgi; \
         uwsgi_temp_path /run/nginx-uwsgi; scgi_temp_path /run/nginx-scgi;\n  server {{ listen {} ssl http2; root \
         /run/pages; ssl_certificate /run/certificate.pem; ssl_certificate_key /run/key.pem; }}\n}}\n",
        origin(case)
    );
    let path = file(&case.server, "nginx.conf", configuration);
    let _nginx = Peer::listening(&case.server, &format!("nginx -c {}", path.display()), origin(case));
    let certificate = case.server.run(|| fs::read("/run/certificate.pem")).unwrap();
    let certificate = file(&client, "certificate.pem", certificate);
    // Several streams of one connection at once.
    let connect = SocketAddr::new(target.ip(), target.port());
    let url = format!("https://spectrum.test:{}/file", target.port());
    let outputs: Vec<String> = (0..4).map(|index| format!("-o /run/got-{index} {url}")).collect();
    let command = format!(
        "curl --silent --show-error --fail --http2 --parallel --cacert {} --connect-to ::{connect} -w \
         %{{http_version}}/%{{num_connects}}\\n {}",
        certificate.display(),
        outputs.join(" ")
    );
    let said = String::from_utf8(converse(&client, &command, b"")).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("2/")).count(), 4, "{said}");
    for index in 0..4 {
        let got = client.run(|| fs::read(format!("/run/got-{index}"))).unwrap();
        assert!(got == sent, "file {index} differs, {} bytes", got.len());
    }
}

fn iperf3_measures_both_directions(case: &mut Case) {
    const BYTES: u64 = 256 << 20;
    if !met("iperf3_measures_both_directions", &[Need::Iperf3]) {
        return;
    }
    let (_instance, client, target) = serve(case);
    let server = format!("iperf3 -s -B {} -p {PORT}", case.loopback());
    let _server = Peer::listening(&case.server, &server, origin(case));
    for direction in ["", " -R", " --bidir"] {
        // Its control connection and four of data, all to the same port.
        let command = format!("iperf3 -c {} -p {} -n {BYTES} -P 4 -J{direction}", target.ip(), target.port());
        let said = eventually(&command, PATIENCE, || {
            let said: Value = serde_json::from_slice(&converse(&client, &command, b"")).unwrap();
            // The server may not be done with the direction before.
            let is_busy = said["error"].as_str().is_some_and(|error| error.contains("server is busy"));
            (!is_busy).then_some(said)
        });
        let bytes = |sum: &str| said["end"][sum]["bytes"].as_u64();
        let [sent, received] = ["sum_sent", "sum_received"]
            .map(|sum| bytes(sum).unwrap_or_else(|| panic!("{direction}: no {sum} in {said}")));
        // With both directions at once it ends as soon as one of them is done, sent or received.
        let back = bytes("sum_received_bidir_reverse");
        assert_eq!(back.is_some(), direction == " --bidir", "{}", said["end"]);
        assert!(back != Some(0) && received > 0, "{direction}: {received} bytes there, {back:?} back");
        if back.is_some_and(|back| back >= BYTES) {
            continue;
        }
        assert!(sent >= BYTES, "{direction}: {sent} bytes sent of {BYTES}");
        // It counts what has come when the sender is done. What is under way then is in the buffers of four sockets for each of
        // four streams, which Linux lets grow to some megabytes each.
        assert!(received >= BYTES / 4, "{direction}: {received} bytes received of {BYTES}");
    }
}
