//! What a session has to say beside the books.
//!
//! *Owns* the announcements of this process that a session has not sent yet, and the acknowledgements it
//! owes. *Never* queues: a newer announcement replaces one that was not sent, so a peer that does not read
//! costs nothing. *Invariant*: what was announced last is what was sent last.

use std::sync::Arc;

use prost::bytes::Bytes;

use crate::convert::message::{Acknowledged, Notice, TABLE_CHUNK};

/// What this process wants its peers to know. Each process fills in its own part.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Announcement {
    /// smartproxy: the routes.
    pub(crate) table: Option<Arc<EncodedTable>>,
    /// smartproxy: it takes no new clients.
    pub(crate) drain: bool,
    /// networkproxy: how many connections it takes; `None` where the Hello said it.
    pub(crate) capacity: Option<u64>,
    /// networkproxy: it takes no new connections.
    pub(crate) draining: bool,
    /// networkproxy: terminated names without a certificate.
    pub(crate) names: Arc<[String]>,
}

/// Routes as they travel.
#[derive(Debug, PartialEq)]
pub(crate) struct EncodedTable {
    pub(crate) generation: u64,
    pub(crate) json: Bytes,
}

/// What one session has not said yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    said: Announcement,
    wanted: Announcement,
    table_offset: usize,
    owed: Acknowledged,
}

impl Outbox {
    /// This is to be known from now on.
    pub(crate) fn announce(&mut self, wanted: Announcement) {
        if wanted.table != self.wanted.table {
            self.table_offset = 0;
        }
        self.wanted = wanted;
    }

    /// Owes the peer an acknowledgement.
    pub(crate) fn owe(&mut self, owed: Acknowledged) {
        self.owed.hop_key = owed.hop_key.or(self.owed.hop_key);
        self.owed.generation = owed.generation.or(self.owed.generation);
        self.owed.table_error = owed.table_error.or_else(|| self.owed.table_error.take());
        self.owed.drain |= owed.drain;
    }

    /// The next thing to say; small things before the routes.
    pub(crate) fn next(&mut self) -> Option<Notice> {
        if self.owed != Acknowledged::default() {
            return Some(Notice::Acknowledged(std::mem::take(&mut self.owed)));
        }
        if self.said.drain != self.wanted.drain {
            self.said.drain = self.wanted.drain;
            return Some(Notice::Drain);
        }
        if self.said.draining != self.wanted.draining {
            self.said.draining = self.wanted.draining;
            return Some(Notice::Draining(self.said.draining));
        }
        if let Some(capacity) = self.wanted.capacity.filter(|_| self.said.capacity != self.wanted.capacity) {
            self.said.capacity = self.wanted.capacity;
            return Some(Notice::Capacity(capacity));
        }
        if self.said.names != self.wanted.names {
            self.said.names = Arc::clone(&self.wanted.names);
            return Some(Notice::NamesWithoutCertificate(self.said.names.to_vec()));
        }
        self.next_of_table()
    }

    fn next_of_table(&mut self) -> Option<Notice> {
        let table = self.wanted.table.as_ref().filter(|_| self.said.table != self.wanted.table)?;
        let offset = self.table_offset;
        let end = (offset + TABLE_CHUNK).min(table.json.len());
        let notice = Notice::RouteTable {
            generation: table.generation,
            offset: offset as u64,
            total: table.json.len() as u64,
            json: table.json.slice(offset..end),
        };
        self.table_offset = end;
        if end == table.json.len() {
            self.said.table = Some(Arc::clone(table));
        }
        Some(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(generation: u64, size: usize) -> Arc<EncodedTable> {
        Arc::new(EncodedTable { generation, json: vec![b' '; size].into() })
    }

    fn drain(outbox: &mut Outbox) -> Vec<Notice> {
        std::iter::from_fn(|| outbox.next()).collect()
    }

    #[test]
    fn what_was_said_is_not_said_again_and_the_newest_replaces_the_rest() {
        let mut outbox = Outbox::default();
        assert_eq!(drain(&mut outbox), []);
        for capacity in 1..=9 {
            outbox.announce(Announcement { capacity: Some(capacity), ..Announcement::default() });
        }
        assert_eq!(drain(&mut outbox), [Notice::Capacity(9)]);
        outbox.owe(Acknowledged { hop_key: Some(1), ..Acknowledged::default() });
        outbox.owe(Acknowledged { generation: Some(2), ..Acknowledged::default() });
        let both = Acknowledged { hop_key: Some(1), generation: Some(2), ..Acknowledged::default() };
        assert_eq!(drain(&mut outbox), [Notice::Acknowledged(both)]);
        assert_eq!(drain(&mut outbox), []);
    }

    #[test]
    fn a_table_travels_in_chunks_and_a_newer_one_starts_over() {
        let mut outbox = Outbox::default();
        outbox
            .announce(Announcement { table: Some(table(1, TABLE_CHUNK * 2 + 1)), ..Announcement::default() });
        let offsets = |notices: &[Notice]| -> Vec<(u64, u64)> {
            let offset = |notice: &Notice| match notice {
                Notice::RouteTable { generation, offset, .. } => (*generation, *offset),
                other => panic!("{other:?}"),
            };
            notices.iter().map(offset).collect()
        };
        let first = outbox.next().expect("a chunk");
        assert_eq!(offsets(&[first]), [(1, 0)]);
        outbox.announce(Announcement { table: Some(table(2, TABLE_CHUNK + 1)), ..Announcement::default() });
        assert_eq!(offsets(&drain(&mut outbox)), [(2, 0), (2, TABLE_CHUNK as u64)]);
        outbox.announce(Announcement {
            table: Some(table(2, TABLE_CHUNK + 1)),
            drain: true,
            ..Announcement::default()
        });
        assert_eq!(drain(&mut outbox), [Notice::Drain], "the same table is not sent again");
    }
}
