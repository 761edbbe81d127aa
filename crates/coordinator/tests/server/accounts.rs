//! Accounts and claims over HTTP.

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, QueryResult, Statement};

use super::support::{Server, code, key};

#[tokio::test]
async fn a_node_is_claimed_by_the_code_that_it_shows_as_a_person_types_it() {
    let server = Server::start().await;
    let (node, agent) = server.enrol(&key(1), "attic").await;
    let (other, _) = server.enrol(&key(2), "cellar").await;
    let operator = server.operator();
    let alice = operator.create_account(" alice ", None).await.unwrap();
    assert_eq!((alice.name.as_str(), alice.nodes.len()), ("alice", 0));
    let shown = agent.claim_code().await.unwrap();
    assert_eq!((shown.code.len(), shown.expires_in_seconds), (8, 900));
    let typed = format!("{}-{}", &shown.code[..4], &shown.code[4..]).to_lowercase();
    let view = operator.claim(&typed, "alice").await.unwrap();
    assert_eq!((view.node, view.account.as_deref()), (node, Some("alice")));
    assert_eq!(
        code(operator.claim(&shown.code, "alice").await),
        "unknown_code",
        "it is good once"
    );
    assert_eq!(operator.accounts().await.unwrap()[0].nodes, [node]);
    assert_eq!(operator.node_view(other).await.unwrap().account, None);
    let server = server.restart().await;
    let operator = server.operator();
    let view = operator.node_view(node).await.unwrap();
    assert_eq!(view.account.as_deref(), Some("alice"));
    // Erased, it is in no view; the node goes on.
    operator.erase_account(alice.account).await.unwrap();
    assert_eq!(operator.node_view(node).await.unwrap().account, None);
    assert!(operator.accounts().await.unwrap().is_empty());
    assert_eq!(
        code(operator.erase_account(alice.account).await),
        "unknown_account"
    );
}

#[tokio::test]
async fn a_later_code_replaces_the_one_before() {
    let server = Server::start().await;
    let (_, agent) = server.enrol(&key(1), "attic").await;
    let operator = server.operator();
    operator.create_account("alice", None).await.unwrap();
    let first = agent.claim_code().await.unwrap().code;
    let second = agent.claim_code().await.unwrap().code;
    assert_eq!(code(operator.claim(&first, "alice").await), "unknown_code");
    operator.claim(&second, "alice").await.unwrap();
}

#[tokio::test]
async fn codes_are_not_to_be_guessed() {
    let server = Server::start().await;
    let (_, agent) = server.enrol(&key(1), "attic").await;
    let operator = server.operator();
    operator.create_account("alice", None).await.unwrap();
    let right = agent.claim_code().await.unwrap().code;
    let mut guesses = 0;
    while code(operator.claim("00000000", "alice").await) == "unknown_code" {
        guesses += 1;
        assert!(guesses < 100);
    }
    assert!(guesses >= 30, "an operator may mistype: {guesses}");
    for guess in ["00000000", right.as_str()] {
        assert_eq!(
            code(operator.claim(guess, "alice").await),
            "too_many_requests",
            "right or wrong, it is not told"
        );
    }
}

#[tokio::test]
async fn names_of_accounts_are_bounded_and_unlike() {
    let server = Server::start().await;
    let operator = server.operator();
    for name in ["", "  ", "a\nb", &"a".repeat(101)] {
        assert_eq!(
            code(operator.create_account(name, None).await),
            "bad_account",
            "{name:?}"
        );
    }
    operator.create_account("alice", None).await.unwrap();
    assert_eq!(
        code(operator.create_account("alice", None).await),
        "account_taken"
    );
    assert_eq!(
        code(operator.claim("00000000", "bob").await),
        "unknown_account"
    );
}

#[tokio::test]
async fn after_an_account_was_erased_no_table_has_its_name() {
    let mut server = Server::start().await;
    let (_, agent) = server.enrol(&key(1), "attic").await;
    let operator = server.operator();
    let (name, team) = ("Zoe Example", "Zebra");
    let account = operator.create_account(name, Some(team)).await.unwrap();
    let shown = agent.claim_code().await.unwrap();
    operator.claim(&shown.code, name).await.unwrap();
    operator
        .set_team(account.account, Some("Zebra 2"))
        .await
        .unwrap();
    server.stop().await;
    assert_eq!(columns_with(&server, name).await, ["account.name"]);
    assert_eq!(columns_with(&server, team).await, ["account.team"]);

    let mut server = server.restart().await;
    let operator = server.operator();
    operator.erase_account(account.account).await.unwrap();
    server.stop().await;
    for gone in [name, team] {
        let left = columns_with(&server, gone).await;
        assert!(left.is_empty(), "{gone:?} is left in {left:?}");
    }
}

/// Where a text is in the database of a server that has stopped, as `table.column`.
async fn columns_with(server: &Server, text: &str) -> Vec<String> {
    let file = server.home.path().join("opengpu.db");
    let address = format!("sqlite://{}", file.display());
    let database = Database::connect(address).await.unwrap();
    let all = "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c \
               WHERE t.type = 'table' ORDER BY t.name, c.name";
    let columns = rows(&database, all).await;
    assert!(columns.len() > 50, "there are more columns");
    let mut found = Vec::new();
    for column in columns {
        let name = |index| column.try_get_by_index::<String>(index).unwrap();
        let (table, column) = (name(0), name(1));
        let having = format!(
            "SELECT 1 FROM \"{table}\" WHERE instr(CAST(\"{column}\" AS TEXT), '{text}') > 0"
        );
        if !rows(&database, &having).await.is_empty() {
            found.push(format!("{table}.{column}"));
        }
    }
    database.close().await.unwrap();
    found
}

async fn rows(database: &DatabaseConnection, query: &str) -> Vec<QueryResult> {
    let statement = Statement::from_string(DbBackend::Sqlite, query);
    database.query_all_raw(statement).await.unwrap()
}
