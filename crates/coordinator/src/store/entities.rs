//! The tables, one module each. All numbers are `i64` and all times are milliseconds, so
//! that every database holds them alike; whatever has structure is JSON in a text column,
//! read back by the typed functions of the sibling modules and by nothing else.

macro_rules! entity {
    ($name:ident, $table:literal, { $($(#[$attr:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        pub(crate) mod $name {
            use sea_orm::entity::prelude::*;

            #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
            #[sea_orm(table_name = $table)]
            pub struct Model {
                $($(#[$attr])* pub $field: $ty,)*
            }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

entity!(token, "token", {
    #[sea_orm(primary_key, auto_increment = false)]
    hash: String,
    label: String,
    uses: Option<i64>,
    used: i64,
    created_ms: i64,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
});

entity!(node, "node", {
    #[sea_orm(primary_key)]
    id: i64,
    name: String,
    machine: String,
    state: String,
    counter_floor: i64,
    created_ms: i64,
    account: Option<i64>,
    admitted: String,
});

entity!(account, "account", {
    #[sea_orm(primary_key)]
    id: i64,
    name: String,
    created_ms: i64,
    team: Option<String>,
});

entity!(claim, "claim", {
    #[sea_orm(primary_key, auto_increment = false)]
    node: i64,
    code: String,
    expires_ms: i64,
});

entity!(node_key, "node_key", {
    #[sea_orm(primary_key, auto_increment = false)]
    public_key: String,
    node: i64,
    created_ms: i64,
    revoked_ms: Option<i64>,
});

entity!(worker, "worker", {
    #[sea_orm(primary_key)]
    id: i64,
    node: i64,
    device: i64,
    offer: String,
    created_ms: i64,
});

entity!(dataset, "dataset", {
    #[sea_orm(primary_key, auto_increment = false)]
    name: String,
    manifest: String,
    created_ms: i64,
});

entity!(run, "run", {
    #[sea_orm(primary_key)]
    id: i64,
    name: String,
    dataset: String,
    manifest: String,
    spec: String,
    epoch: i64,
    head: i64,
    ended: bool,
    created_ms: i64,
});

entity!(event, "event", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    seq: i64,
    version: i64,
    body: String,
});

entity!(snapshot, "snapshot", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    seq: i64,
    format: i64,
    body: String,
});

entity!(credit, "credit", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    assignment: i64,
    node: i64,
    worker: i64,
    tokens: i64,
    at_ms: i64,
});

entity!(ledger_entry, "ledger_entry", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    number: i64,
    node: i64,
    assignment: i64,
    line: String,
});

entity!(ledger_hash, "ledger_hash", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    number: i64,
    hash: String,
});

entity!(ledger_sum, "ledger_sum", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    day: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    node: i64,
    tokens: i64,
    megaflops: i64,
    accepted: i64,
    rejected: i64,
    audits_passed: i64,
    audits_failed: i64,
    audits_undecided: i64,
    corrections: i64,
    trained_again: i64,
});

entity!(standing, "standing", {
    #[sea_orm(primary_key, auto_increment = false)]
    node: i64,
    vouched: bool,
    passed: i64,
    failed: i64,
    audits_millionths: i64,
    proven_ms: i64,
    level: String,
});

entity!(standing_change, "standing_change", {
    #[sea_orm(primary_key)]
    id: i64,
    node: i64,
    at_ms: i64,
    cause: String,
    from_level: String,
    to_level: String,
    code: String,
    reason: String,
    evidence: Option<String>,
    stood: String,
    reversed_by: Option<i64>,
});

entity!(appeal, "appeal", {
    #[sea_orm(primary_key, auto_increment = false)]
    change: i64,
    node: i64,
    at_ms: i64,
    said: String,
    outcome: Option<String>,
    note: Option<String>,
    answered_ms: Option<i64>,
});

entity!(audit, "audit", {
    #[sea_orm(primary_key)]
    id: i64,
    at_ms: i64,
    actor: String,
    action: String,
    detail: String,
});

entity!(round_metric, "round_metric", {
    #[sea_orm(primary_key, auto_increment = false)]
    run: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    lineage: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    round: i64,
    body: String,
});

pub(crate) mod evaluation {
    use sea_orm::entity::prelude::*;

    /// Apart from the others because floats have no `Eq`.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "evaluation")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub run: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub lineage: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        pub nats_per_token: f64,
        pub bits_per_byte: Option<f64>,
        pub at_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
