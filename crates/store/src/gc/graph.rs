//! The references of all valid paths, in memory, and which of the paths are live.
//!
//! The edges are stored as compressed sparse rows
//! (<https://en.wikipedia.org/wiki/Sparse_matrix#Compressed_sparse_row_(CSR,_CRS_or_Yale_format)>):
//! the targets of all edges are in one array, those of one node next to each other, and another
//! array has the index at which each node's targets begin. A million paths take a few hundred
//! megabytes for the seconds that the graph lives, and marking live paths is one pass over it.

use std::collections::HashSet;
use std::hash::BuildHasher;

use formats::store_path::StorePath;
use hashbrown::{DefaultHashBuilder, HashTable};
use rusqlite::Connection;

use super::request::GcRequest;
use crate::database::together;
use crate::error::{Error, Result};
use crate::progress::{Progress, check};
use crate::store::Store;

/// The index of a node.
pub(super) type Node = u32;

/// No node.
const NO_NODE: u32 = u32::MAX;

/// All valid paths, ordered by their row ids in the database.
pub(super) struct Graph {
    ids: Vec<i64>,
    sizes: Vec<u64>,
    /// All base names, concatenated, and the end of each.
    names: String,
    ends: Vec<usize>,
    /// All nodes, by the hashes of their names, which are in `names`.
    by_name: HashTable<Node>,
    hasher: DefaultHashBuilder,
    references: CompressedRows,
    /// Other edges that keep paths alive: to derivers or outputs.
    keeps: CompressedRows,
    live: Vec<bool>,
}

/// Edges as compressed sparse rows, one row for each node that edges start from.
#[derive(Default)]
struct CompressedRows {
    /// The index in `targets` at which each node's row begins, and the end of the last row.
    starts: Vec<u32>,
    targets: Vec<Node>,
}

impl CompressedRows {
    fn new(nodes: usize, pairs: &[(Node, Node)]) -> CompressedRows {
        let mut starts = vec![0; nodes + 1];
        for (from, _) in pairs {
            starts[*from as usize + 1] += 1;
        }
        for index in 0..nodes {
            starts[index + 1] += starts[index];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; pairs.len()];
        for (from, to) in pairs {
            let place = &mut next[*from as usize];
            targets[*place as usize] = *to;
            *place += 1;
        }
        CompressedRows { starts, targets }
    }

    fn row(&self, node: Node) -> &[Node] {
        let (start, end) = (self.starts[node as usize], self.starts[node as usize + 1]);
        &self.targets[start as usize..end as usize]
    }
}

/// Maps row ids to nodes.
enum Ids<'a> {
    Dense(Vec<u32>),
    Sparse(&'a [i64]),
}

impl Ids<'_> {
    fn new(ids: &[i64]) -> Ids<'_> {
        let last = ids.last().copied().unwrap_or(0);
        match usize::try_from(last) {
            Ok(last) if last <= ids.len() * 8 + 1_000_000 => {
                let mut dense = vec![NO_NODE; last + 1];
                for (node, id) in ids.iter().enumerate() {
                    if let Some(slot) = usize::try_from(*id).ok().and_then(|id| dense.get_mut(id)) {
                        *slot = node as u32;
                    }
                }
                Ids::Dense(dense)
            }
            _ => Ids::Sparse(ids),
        }
    }

    fn find(&self, id: i64) -> Option<Node> {
        match self {
            Ids::Dense(dense) => {
                let node = usize::try_from(id)
                    .ok()
                    .and_then(|id| dense.get(id).copied())?;
                (node != NO_NODE).then_some(node)
            }
            Ids::Sparse(ids) => ids.binary_search(&id).ok().map(|node| node as u32),
        }
    }
}

impl Graph {
    /// Reads the database in one transaction.
    pub(super) fn load(
        store: &Store,
        request: &GcRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Graph> {
        let prefix = format!("{}/", store.dir());
        let action = "reading valid paths from database";
        let failed = |error| Error::database(action, error);
        store.database()?.read(action, |connection| {
            let _transaction = together(connection).map_err(failed)?;
            let mut graph = Graph::load_paths(connection, &prefix).map_err(failed)?;
            check(progress)?;
            let nodes = graph.ids.len();
            let ids = Ids::new(&graph.ids);
            let references = load_references(connection, &ids).map_err(failed)?;
            check(progress)?;
            let mut keeps = Vec::new();
            if request.keep_outputs || request.keep_derivations {
                load_outputs(connection, &ids, request, &mut keeps).map_err(failed)?;
            }
            drop(ids);
            graph.references = CompressedRows::new(nodes, &references);
            graph.keeps = CompressedRows::new(nodes, &keeps);
            Ok(graph)
        })
    }

    fn load_paths(connection: &Connection, prefix: &str) -> rusqlite::Result<Graph> {
        let mut graph = Graph {
            ids: Vec::new(),
            sizes: Vec::new(),
            names: String::new(),
            ends: Vec::new(),
            by_name: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            references: CompressedRows::default(),
            keeps: CompressedRows::default(),
            live: Vec::new(),
        };
        let mut statement =
            connection.prepare("select id, path, narSize from ValidPaths order by id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // Paths outside the store are removed by `guix gc --verify`.
            let Some(name) = row.get_ref(1)?.as_str()?.strip_prefix(prefix) else {
                continue;
            };
            graph.ids.push(row.get(0)?);
            graph.names.push_str(name);
            graph.ends.push(graph.names.len());
            graph
                .sizes
                .push(row.get::<_, Option<i64>>(2)?.map_or(0, |size| size as u64));
        }
        graph.live = vec![false; graph.ids.len()];
        graph.index_names();
        Ok(graph)
    }

    fn index_names(&mut self) {
        let mut by_name = HashTable::with_capacity(self.ids.len());
        let hash = |node: &Node| self.hasher.hash_one(self.name(*node));
        for node in self.nodes() {
            by_name.insert_unique(hash(&node), node, hash);
        }
        self.by_name = by_name;
    }

    /// The node with this base name.
    pub(super) fn find(&self, name: &str) -> Option<Node> {
        let hash = self.hasher.hash_one(name);
        let is_it = |node: &Node| self.name(*node) == name;
        self.by_name.find(hash, is_it).copied()
    }

    /// The node's base name.
    pub(super) fn name(&self, node: Node) -> &str {
        let start = match node.checked_sub(1) {
            Some(previous) => self.ends[previous as usize],
            None => 0,
        };
        &self.names[start..self.ends[node as usize]]
    }

    /// The node's row id in the database.
    pub(super) fn id(&self, node: Node) -> i64 {
        self.ids[node as usize]
    }

    /// The size of the node's nar; 0 if unknown.
    pub(super) fn size(&self, node: Node) -> u64 {
        self.sizes[node as usize]
    }

    /// The node's references, which may include itself.
    pub(super) fn references(&self, node: Node) -> &[Node] {
        self.references.row(node)
    }

    /// Marks everything that is reachable from `roots`.
    pub(super) fn mark(&mut self, roots: &HashSet<StorePath>) {
        let mut pending: Vec<Node> = roots
            .iter()
            .filter_map(|root| self.find(root.base_name()))
            .collect();
        while let Some(node) = pending.pop() {
            if std::mem::replace(&mut self.live[node as usize], true) {
                continue;
            }
            let next = self.references.row(node).iter().chain(self.keeps.row(node));
            pending.extend(next.filter(|next| !self.live[**next as usize]));
        }
    }

    /// Whether the node is live.
    pub(super) fn is_live(&self, node: Node) -> bool {
        self.live[node as usize]
    }

    /// The names of live paths.
    pub(super) fn live(&self) -> impl Iterator<Item = &str> {
        self.nodes()
            .filter(|node| self.is_live(*node))
            .map(|node| self.name(node))
    }

    /// The nodes that aren't live.
    pub(super) fn dead(&self) -> impl Iterator<Item = Node> {
        self.nodes().filter(|node| !self.is_live(*node))
    }

    /// The number of nodes.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        0..self.ids.len() as u32
    }
}

fn load_references(connection: &Connection, ids: &Ids<'_>) -> rusqlite::Result<Vec<(Node, Node)>> {
    let mut references = Vec::new();
    let mut statement = connection.prepare("select referrer, reference from Refs")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let (Some(from), Some(to)) = (ids.find(row.get(0)?), ids.find(row.get(1)?)) {
            references.push((from, to));
        }
    }
    Ok(references)
}

/// Edges between derivations and their valid outputs.
fn load_outputs(
    connection: &Connection,
    ids: &Ids<'_>,
    request: &GcRequest<'_>,
    edges: &mut Vec<(Node, Node)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "select d.drv, o.id, o.deriver is not null and o.deriver = v.path \
         from DerivationOutputs d join ValidPaths o on o.path = d.path \
         join ValidPaths v on v.id = d.drv",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (Some(derivation), Some(output)) = (ids.find(row.get(0)?), ids.find(row.get(1)?))
        else {
            continue;
        };
        if request.keep_outputs {
            edges.push((derivation, output));
        }
        if request.keep_derivations && row.get::<_, bool>(2)? {
            edges.push((output, derivation));
        }
    }
    Ok(())
}
