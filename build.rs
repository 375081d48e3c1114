//! Link options of the module: it must never be unmapped, and it takes Lua's symbols from its host.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    match os.as_str() {
        // macOS resolves Lua's symbols when the module is loaded; it never unmaps an image with thread locals.
        "macos" => println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        "windows" => {}
        // `lua_close` unloads C modules. Ours has threads that may outlive the state, so it pins itself.
        _ => println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete"),
    }
}
