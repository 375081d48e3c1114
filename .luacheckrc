-- One code base for Lua 5.1 to 5.5 and LuaJIT: the specs on every interpreter find what one of them lacks.
std = "max"
max_line_length = 120

-- Globals of a worker's state: a task reads them, and writes their fields (122).
read_globals = { "_TLS", "_OSTLS" }
ignore = { "122/_TLS", "122/_OSTLS" }
color = false

files["spec"] = { std = "+busted" }
files["lua/threadpool/host"] = { std = "+ngx_lua", read_globals = { "vim" } }
files["**/_meta.lua"] = { ignore = { "1", "2" } } -- type stubs: all declaration, no use
