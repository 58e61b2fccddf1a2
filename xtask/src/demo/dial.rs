//! A client: dials an address and reads the answer. Judges the answer by what it says it was dialled as.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// The time that a connection on this machine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer of a dialled address.
#[derive(Debug)]
pub struct Answer {
    /// All of it.
    pub text: String,
    /// The address that it says was dialled.
    pub dialled: String,
    /// The address that it says dialled.
    pub client: String,
}

/// Dials `address`, reads to the end, and makes sure that the answer names the address.
pub fn dial(address: SocketAddr) -> Result<Answer> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("dial {address}"))?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(|| format!("dial {address}"))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("read the answer of {address}"))?;
    let (dialled, client) = (field(&text, "dialled"), field(&text, "client"));
    ensure!(text.starts_with("hello world\n"), "dial {address}: answered {text:?}");
    ensure!(dialled == address.to_string(), "dial {address}: the answer says that {dialled:?} was dialled");
    Ok(Answer { text, dialled, client })
}

fn field(text: &str, name: &str) -> String {
    let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    text.split_whitespace().find_map(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_answer_are_read() {
        let answer =
            "hello world\nservice=default protocol=tcp dialled=[2001:db8::1]:80 client=[::1]:51234\n";
        assert_eq!(field(answer, "dialled"), "[2001:db8::1]:80");
        assert_eq!(field(answer, "client"), "[::1]:51234");
        assert_eq!(field(answer, "origin"), "");
    }
}
