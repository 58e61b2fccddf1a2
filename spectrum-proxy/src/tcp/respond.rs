//! The built-in answers. Speaks to the client only: no origin is involved.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::timeout;

use super::relay::{self, ConnectionTimer};
use super::stream::Stream;
use crate::model::Responder;
use crate::report::{End, Side};
use crate::session::Session;

/// The time that a client that was answered may keep its side open.
const LINGER: Duration = Duration::from_secs(2);

/// Answers `client` as `responder` does, until `watch` says that it is over.
pub(crate) async fn respond(
    responder: Responder,
    client: &Stream,
    session: &Session,
    watch: &ConnectionTimer<'_>,
) -> End {
    let answered = async {
        match responder {
            Responder::Discard => discard(client, session, watch).await,
            Responder::Echo => {
                let means = session.worker().means();
                relay::echo(client, &session.from_client, &session.to_client, means, watch).await
            }
            Responder::Hello => hello(client, session, watch).await,
        }
    };
    tokio::select! {
        biased;
        end = answered => end,
        end = watch.expired([client], || {}) => end,
    }
}

/// Reads until the client is done.
async fn discard(client: &Stream, session: &Session, watch: &ConnectionTimer<'_>) -> End {
    loop {
        match poll_fn(|cx| session.worker().buffers.poll_discard(client, cx)).await {
            Ok(0) => return End::Closed,
            Ok(bytes) => {
                session.from_client.add(bytes);
                watch.touch();
            }
            Err(error) => return End::of(Side::Downstream, &error),
        }
    }
}

async fn hello(client: &Stream, session: &Session, watch: &ConnectionTimer<'_>) -> End {
    let answer = format!(
        "hello world\nservice={} protocol={} dialled={} client={}\n",
        session.service(),
        session.protocol(),
        session.dialled.get(),
        session.client.get(),
    );
    let said = async {
        client.write_all(answer.as_bytes()).await?;
        client.shut_down()
    };
    if let Err(error) = said.await {
        return End::of(Side::Downstream, &error);
    }
    session.to_client.add(answer.len());
    // Closing while something the client sent lies unread makes the kernel send a RST, which may overtake the answer.
    timeout(LINGER, discard(client, session, watch)).await.unwrap_or(End::Closed)
}
