--- What the specs share: which interpreter runs them, a fresh process of it, and waiting with a limit.
-- Nothing here knows the module, so that a spec of the module cannot pass because of its helper.

local system = require "system"

local helper = {}

--- Seconds after which something that should have happened has not. Under valgrind it is set higher.
helper.TIMEOUT = tonumber(os.getenv "TIMEOUT") or 10

-- The interpreter is what stands lowest in `arg`: "/usr/bin/lua5.4", "-e", ..., [0] = "busted".
local function binary()
    local lowest = 0
    while arg[lowest - 1] do
        lowest = lowest - 1
    end
    return arg[lowest]
end

--- `version` is "5.1" for LuaJIT too; `name` is for people; `path` starts the same interpreter again.
helper.interpreter = {
    version = _VERSION:match "%d+%.%d+",
    is_jit = rawget(_G, "jit") ~= nil,
    name = rawget(_G, "jit") and jit.version or _VERSION,
    path = binary(),
}

--- A word for the shell, whatever is in it.
function helper.quote(text)
    return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

local function read_all(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read "*a"
    file:close()
    return text
end

--- Runs a shell command under a time limit, with nothing on its standard input.
-- Returns its status (124: it hung; 128 + n: signal n ended it), its standard output and its standard error.
-- options: `env` (a table of variables, false unsets one), `timeout` (seconds, default TIMEOUT), `input` (a string).
function helper.shell(command, options)
    options = options or {}
    local out, err, status, input = os.tmpname(), os.tmpname(), os.tmpname(), nil
    local words = { "env" }
    for name, value in pairs(options.env or {}) do
        if value then
            words[#words + 1] = helper.quote(name .. "=" .. value)
        else
            table.insert(words, 2, "-u " .. name)
        end
    end
    if options.input then
        input = os.tmpname()
        local file = assert(io.open(input, "wb"))
        file:write(options.input)
        file:close()
    end
    -- Without `timeout` (not everywhere) a hang is a hang.
    words[#words + 1] = ("$(command -v timeout >/dev/null && echo timeout -k 5 %d)"):format(
        math.ceil(options.timeout or helper.TIMEOUT)
    )
    words[#words + 1] = "sh -c " .. helper.quote(command)
    os.execute(("{ %s; } <%s >%s 2>%s; echo $? >%s"):format(
        table.concat(words, " "), input or "/dev/null", out, err, status
    ))
    local code, stdout, stderr = tonumber(read_all(status)), read_all(out), read_all(err)
    for _, path in ipairs { out, err, status, input } do
        os.remove(path)
    end
    return code, stdout, stderr
end

--- Runs a program in a fresh process of this interpreter, with this process's package.path and package.cpath.
-- `program` is Lua code, or the path of a file that ends in ".lua".
-- options: those of `shell`, and `args` (a list of strings), `path` and `cpath` (instead of this process's).
-- Returns what `shell` returns.
function helper.run(program, options)
    options = options or {}
    local file = program
    local temporary = not program:find "^[^\n]+%.lua$"
    if temporary then
        file = os.tmpname()
        local handle = assert(io.open(file, "wb"))
        handle:write(program)
        handle:close()
    end
    local words = {
        "exec", -- signals and statuses are the program's own
        helper.quote(helper.interpreter.path),
        "-e",
        helper.quote(("package.path, package.cpath = %q, %q"):format(
            options.path or package.path, options.cpath or package.cpath
        )),
        helper.quote(file),
    }
    for _, word in ipairs(options.args or {}) do
        words[#words + 1] = helper.quote(word)
    end
    local status, stdout, stderr = helper.shell(table.concat(words, " "), options)
    if temporary then
        os.remove(file)
    end
    return status, stdout, stderr
end

--- Gives a function the real globals. busted runs each function of a spec file in an environment of its own, which
-- would travel with every closure that is made there.
function helper.plain(fn)
    if setfenv then
        return setfenv(fn, _G)
    end
    local index = 1
    while debug.getupvalue(fn, index) do
        if debug.getupvalue(fn, index) == "_ENV" then
            debug.upvaluejoin(fn, index, function() return _G end, 1)
        end
        index = index + 1
    end
    return fn
end

--- The same for all that is made in a block of busted's: of `describe, it, ...` returns others that leave their
-- functions the real globals. What a spec uses of busted must then be locals of the file.
function helper.plainly(...)
    local blocks = {}
    for n, block in ipairs { ... } do
        blocks[n] = function(name, fn)
            if fn then
                block(name, function() helper.plain(fn)() end)
            else
                block(function() helper.plain(name)() end) -- setup and the like have no name
            end
        end
    end
    return (table.unpack or unpack)(blocks)
end

local gates = {}

--- A gate that a task can block its whole thread on: `io.open(path):read()` returns once `open()` was called here.
-- Returns path, open. For one reader; the file is the caller's to remove.
function helper.gate()
    local path = os.tmpname()
    os.remove(path)
    os.execute("mkfifo " .. helper.quote(path))
    local pipe = assert(io.open(path, "r+")) -- does not wait for a reader, and keeps readers waiting
    gates[#gates + 1] = pipe -- closed before it was read from, a pipe forgets
    return path, function()
        pipe:write "open\n"
        pipe:flush()
    end
end

--- The content of a file, or nil.
function helper.content(path)
    local file = io.open(path, "rb")
    if file then
        local text = file:read "*a"
        file:close()
        return text
    end
end

--- Calls `fn` until it returns something true, and returns that; raises when `seconds` (default TIMEOUT) are over.
function helper.eventually(fn, seconds)
    local limit = system.monotime() + (seconds or helper.TIMEOUT)
    repeat
        local value = fn()
        if value then
            return value
        end
        system.sleep(0.002)
    until system.monotime() > limit
    error(("still not so after %g seconds"):format(seconds or helper.TIMEOUT), 2)
end

return helper
