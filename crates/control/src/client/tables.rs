//! The routes that smartproxy sent.
//!
//! *Owns* the table in force, the one before it, and the one that is being received. *Never* applies a part
//! of a table. *Invariant*: a hop header that names the current generation, or the one before, finds it.

use std::sync::Arc;

use config::InnerTable;
use ledger::InstanceId;

use crate::convert::message::LARGEST_TABLE;

/// The latest tables, as of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    /// At most two, the latest last.
    known: Vec<(InstanceId, Arc<InnerTable>)>,
}

/// A table that is being received in one session.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    generation: u64,
    json: Vec<u8>,
}

impl Tables {
    pub(crate) fn find(&self, front: InstanceId, generation: u64) -> Option<&Arc<InnerTable>> {
        let known = self.known.iter().rev();
        known
            .filter(|(at, _)| *at == front)
            .map(|(_, table)| table)
            .find(|table| table.generation == generation)
    }

    pub(crate) fn latest(&self) -> Option<&Arc<InnerTable>> {
        self.known.last().map(|(_, table)| table)
    }

    /// With `table` of `front` in force.
    pub(crate) fn with(&self, front: InstanceId, table: Arc<InnerTable>) -> Self {
        let replaced = |(at, known): &&(InstanceId, Arc<InnerTable>)| {
            *at == front && known.generation == table.generation
        };
        let before = self.known.iter().rev().find(|known| !replaced(known)).cloned();
        Self { known: before.into_iter().chain([(front, table)]).collect() }
    }
}

impl Assembly {
    /// Adds a part. `Some` where it was the last: the table, or why it cannot be read.
    pub(crate) fn add(
        &mut self,
        generation: u64,
        offset: u64,
        total: u64,
        part: &[u8],
    ) -> Option<Result<InnerTable, String>> {
        if offset == 0 {
            *self = Self { generation, json: Vec::new() };
        }
        if generation != self.generation || offset != self.json.len() as u64 || total > LARGEST_TABLE {
            return Some(Err("a part of the route table is missing".to_owned()));
        }
        self.json.extend_from_slice(part);
        if (self.json.len() as u64) < total {
            return None;
        }
        let json = std::mem::take(&mut self.json);
        let table = serde_json::from_slice::<InnerTable>(&json).map_err(|error| error.to_string());
        Some(match table {
            Ok(table) if table.generation != generation => Err("it names another generation".to_owned()),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: InstanceId = InstanceId(1);

    fn table(generation: u64) -> InnerTable {
        InnerTable { generation, ..InnerTable::default() }
    }

    #[test]
    fn the_latest_table_and_the_one_before_are_found() {
        let mut tables = Tables::default();
        for generation in 1..=3 {
            tables = tables.with(FRONT, Arc::new(table(generation)));
        }
        tables = tables.with(FRONT, Arc::new(table(3)));
        assert!(tables.find(FRONT, 1).is_none());
        assert_eq!(tables.find(FRONT, 2).map(|table| table.generation), Some(2));
        assert_eq!(tables.latest().map(|table| table.generation), Some(3));
        assert!(tables.find(InstanceId(2), 3).is_none(), "another instance's generation 3 is another table");
    }

    #[test]
    fn a_table_is_taken_whole_or_not_at_all() {
        let json = serde_json::to_vec(&table(7)).unwrap();
        let total = json.len() as u64;
        let mut assembly = Assembly::default();
        assert!(assembly.add(7, 0, total, &json[..5]).is_none());
        assert_eq!(assembly.add(7, 5, total, &json[5..]), Some(Ok(table(7))));
        assert!(assembly.add(7, 0, total, &json[..5]).is_none());
        assert!(matches!(assembly.add(7, 6, total, &json[6..]), Some(Err(_))), "a gap");
        assert!(matches!(assembly.add(8, 0, total, &json), Some(Err(_))), "not what it is said to be");
        assert!(matches!(assembly.add(8, 0, 3, b"{,}"), Some(Err(_))), "no JSON");
    }
}
