//! What a service says of the checks of its origins: the table `health`. Checks none.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::{Section, Typed};
use crate::config::udp::BoundProtocols;
use crate::model::{
    CheckClose, DatagramHeader, DatagramProbe, HealthCheck, HealthProbe, ProbeBytes, ProxyVersion, Question,
};

/// Often enough to be noticed, rarely enough not to be a load.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

/// The headers that origins expect, by TCP and by UDP.
type Headers = (Option<ProxyVersion>, Option<DatagramHeader>);

/// The checks that `typed` says for a service that binds these protocols.
pub(super) fn read(typed: Typed<'_, '_>, bound: BoundProtocols, headers: Headers) -> HealthCheck {
    let mut check = HealthCheck::default();
    let Some(section) = typed.section("a table such as { interval = \"5s\" }") else { return check };
    for (key, range, place) in
        [("interval", INTERVALS, &mut check.interval), ("timeout", TIMEOUTS, &mut check.timeout)]
    {
        if let Some(time) = section.take(key).and_then(|typed| typed.time(&range)) {
            *place = time;
        }
    }
    for (key, place) in [("rise", &mut check.rise), ("fall", &mut check.fall)] {
        if let Some(number) = section.take(key).and_then(|typed| typed.number(&(1..=1000))) {
            *place = number;
        }
    }
    check.port = section.take("port").and_then(|typed| typed.number(&(1..=u16::MAX)));
    let close = section.take("close");
    check.close = close.and_then(|typed| typed.word()).unwrap_or_default();
    // A port of its own for checks is not the one that expects headers.
    let (version, datagram_header) = if check.port.is_none() { headers } else { (None, None) };
    let asked = question(&section, bound);
    section.finish();
    match asked {
        Asked::Nothing if !bound.tcp => typed.refuse(
            "UDP has no connection to try; say what to ask, as in { template = \"dns\" } or { send = \"ping\" }",
        ),
        Asked::Nothing => check.header = version,
        Asked::Refused => {}
        Asked::Question(question) => {
            check.probe = HealthProbe::Datagram(Box::new(DatagramProbe { question, header: datagram_header }));
            if let Some(close) = close {
                close.refuse("is about a connection by TCP, and these checks ask by UDP; leave it out");
            }
        }
    }
    if let (Some(_), CheckClose::Reset) = (check.header, check.close) {
        typed.refuse_key(
            "close",
            "a reset would overtake the PROXY header of a check; leave it out, or give checks a port of their own: { close \
             = \"reset\", port = 80 }",
        );
    }
    check
}

/// What is to be asked by a datagram.
enum Asked {
    Nothing,
    Question(Question),
    Refused,
}

fn question(section: &Section<'_, '_>, bound: BoundProtocols) -> Asked {
    let (template, send, expect) = (section.take("template"), section.take("send"), section.take("expect"));
    if !bound.udp {
        let mut asked = Asked::Nothing;
        for typed in [template, send, expect].into_iter().flatten() {
            typed.refuse(
                "asks by UDP, of which the service has no binding; remove it, and checks connect by TCP",
            );
            asked = Asked::Refused;
        }
        return asked;
    }
    match (template, send, expect) {
        (None, None, None) => Asked::Nothing,
        (Some(template), None, None) => {
            template.word().map_or(Asked::Refused, |template| Asked::Question(Question::Template(template)))
        }
        (Some(template), ..) => {
            template.refuse("what it asks and expects is known; write template, or send and expect");
            Asked::Refused
        }
        (None, None, Some(expect)) => {
            expect
                .refuse("means nothing without send, which says what is asked; add that, or write template");
            Asked::Refused
        }
        (None, Some(send), expect) => {
            let bytes =
                |typed: Typed<'_, '_>| typed.parsed::<ProbeBytes>("text, or digits such as \"0xffffffff54\"");
            let asked = bytes(send);
            let expect = expect.map_or(Some(ProbeBytes::default()), bytes);
            if asked.as_ref().is_some_and(|asked| asked.as_slice().is_empty()) {
                send.refuse("an empty datagram asks nothing; write what the origin answers");
            }
            match (asked, expect) {
                (Some(send), Some(expect)) => Asked::Question(Question::Bytes { send, expect }),
                _ => Asked::Refused,
            }
        }
    }
}
