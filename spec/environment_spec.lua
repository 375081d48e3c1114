--- Where a closure's globals come from: the globals of the state that it arrives in, by identity and never by the
-- position of an upvalue; an environment of its own travels along; and no task changes those of another.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local FENV = setfenv ~= nil -- 5.1 and LuaJIT: a function has an environment; later, an upvalue _ENV
local compile = loadstring or load

-- Gives a closure an environment of its own.
local function enclose(fn, env)
    if FENV then
        return setfenv(fn, env)
    end
    local index = 1
    while debug.getupvalue(fn, index) ~= "_ENV" do
        index = index + 1
    end
    debug.upvaluejoin(fn, index, function() return env end, 1)
    return fn
end

describe("the globals of a task", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    local function run(...)
        return results(pool:run(...))
    end

    it("are found though the first upvalue is another", function()
        local path = "first"
        assert.are.same({ "first", "function", "7" }, {
            run(function()
                local p = path
                return p, type(print), tostring(7)
            end),
        })
    end)

    it("are found whatever position they have among the upvalues", function()
        local a, b, c = 1, 2, 3
        assert.are.same({ 3, "table" }, { run(function() return a + b, type(string) end) })
        assert.are.same({ "table", 6 }, { run(function() return type(string), a + b + c end) })
        assert.are.same({ 1, "table", 5 }, { run(function() return a, type(string), b + c end) })
    end)

    it("are found by functions inside the task and by those that it captured", function()
        local prefix = "<"
        local function show(value) return prefix .. tostring(value) end
        assert.are.same({ "<1", "2" }, {
            run(function()
                local function inner() return tostring(2) end
                return show(1), inner()
            end),
        })
    end)

    it("are those of the worker, not of the submitter", function()
        rawset(_G, "only_here", "here")
        local there = run(function() return tostring(rawget(_G, "only_here")) end)
        rawset(_G, "only_here", nil)
        assert.are.equal("nil", there)
        assert.is_true(run(function() return _G == (getfenv and getfenv(0) or _G) end))
    end)

    it("captured as a value are those of the worker too", function()
        local G = _G
        assert.is_true(run(function() return G == _G and G.print == print end))
    end)

    it("come back as the submitter's", function()
        local G, fn = run(function() return _G, function() return _G end end)
        assert.is_true(G == _G)
        assert.is_true(fn() == _G)
    end)

    it("of a chunk are the worker's", function()
        local chunk = compile "local a = ... return type(print), a"
        assert.are.same({ "function", 5 }, { run(chunk, 5) })
    end)
end)

describe("an environment of its own", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    local function run(...)
        return results(pool:run(...))
    end

    it("travels with a closure, as a copy", function()
        local env = { value = 41 }
        local fn = enclose(compile "value = value + 1 return value, print", env)
        assert.are.same({ 42, nil }, { run(fn) })
        assert.are.same({ 42, nil }, { run(fn) })
        assert.are.equal(41, env.value)
    end)

    it("may inherit from the globals", function()
        local env = setmetatable({ value = 12 }, { __index = _G })
        local fn = enclose(compile "return tostring(value), _G == ...", env)
        assert.are.same({ "12", true }, { run(fn, _G) })
    end)

    it("is shared by two closures that shared it", function()
        local env = { value = 1 }
        local set = enclose(compile "value = ...", env)
        local get = enclose(compile "return value", env)
        assert.are.same({ 7, 7, true }, {
            run(function()
                set(7)
                return get(), env.value, rawget(_G, "value") == nil
            end),
        })
        assert.are.equal(1, env.value)
    end)

    it("is not what the next task of the same code gets", function()
        local code = "return value"
        local one = enclose(compile(code), { value = "one" })
        local two = enclose(compile(code), { value = "two" })
        for _ = 1, 5 do
            assert.are.equal("one", run(one))
            assert.are.equal("two", run(two))
        end
    end)

    it("that changes between two sends of one closure", function()
        local env = { value = 1 }
        local fn = enclose(compile "return value", env)
        for n = 1, 10 do
            env.value = n
            assert.are.equal(n, run(fn))
        end
        enclose(fn, { value = "another" })
        assert.are.equal("another", run(fn))
        enclose(fn, _G)
        assert.are.equal("nil", type((run(fn))))
    end)

    it("that cannot travel is refused with the path", function()
        local fn = enclose(compile "return handle", { handle = io.tmpfile() })
        local ok, err = pcall(pool.run, pool, fn)
        assert.is_false(ok)
        assert.are.equal("transfer", err.code)
        assert.matches("%.handle: userdata cannot be sent$", tostring(err))
    end)

    if not FENV then
        it("declared as a local _ENV", function()
            local fn = compile "local _ENV = { value = 5 } return function() value = value + 1 return value end" ()
            assert.are.equal(6, run(fn))
            assert.are.equal(6, run(fn))
            assert.are.equal(6, fn())
        end)

        it("a local _ENV that is no table", function()
            local fn = compile "local _ENV = nil return function() return 'no globals used' end" ()
            assert.are.equal("no globals used", run(fn))
        end)

        it("an upvalue by another name that holds the globals", function()
            local fn = compile "local G <const> = _G return function() return G.tostring(1), G == _G end"
                or compile "local G = _G return function() return G.tostring(1), G == _G end"
            assert.are.same({ "1", true }, { run(fn()) })
        end)
    end
end)

describe("what a task does to its globals", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    -- Whether tasks of old and new code still find their globals.
    local function canary() return type(print) .. type(tostring) .. type(_OSTLS) end

    local function healthy()
        local ok, found = pool:run(canary)
        assert.are.same({ true, "functionfunctiontable" }, { ok, found })
        ok, found = pool:run(compile "return type(print) .. type(tostring) .. type(_OSTLS)")
        assert.are.same({ true, "functionfunctiontable" }, { ok, found })
    end

    local function then_healthy(code, ...)
        local fn = compile(code)
        for _ = 1, 3 do
            healthy()
            local ok, back = pool:run(fn, ...)
            assert.are.same({ true, "done" }, { ok, back })
            healthy()
        end
    end

    if FENV then
        it("setfenv(1, {})", function()
            then_healthy "local t = {} setfenv(1, t) return 'done'"
        end)

        it("setfenv(0, {})", function()
            then_healthy "local t = {} setfenv(0, t) return 'done'"
        end)

        it("setfenv of a function that another task shares", function()
            local function shared() return type(print) end
            for _ = 1, 3 do
                assert.are.same({ true, "function" }, { pool:run(shared) })
                pool:run(function() setfenv(shared, { type = type }) end)
            end
            assert.are.same({ true, "function" }, { pool:run(shared) })
        end)
    else
        it("_ENV = {}", function()
            then_healthy "_ENV = {} return 'done'"
        end)

        it("_ENV = nil, and then an error", function()
            local fn = compile "_ENV = nil; return print"
            for _ = 1, 3 do
                local ok = pool:run(fn)
                assert.is_false(ok)
                healthy()
            end
        end)

        it("_ENV = {} in a closure with other upvalues, in one captured, in one inside", function()
            local extra = 1
            local maker = compile [[
                local extra = ...
                local function captured() extra = extra + 1 _ENV = {} return extra end
                return captured, function() local n = captured() _ENV = {} return n end
            ]]
            for _ = 1, 3 do
                local captured, caller = maker(extra)
                maker = compile(string.dump(maker)) -- its own _ENV is untouched: it is loaded again
                assert.are.same({ true, 2 }, { pool:run(captured) })
                healthy()
                assert.are.same({ true, 2 }, { pool:run(caller) })
                healthy()
            end
        end)

        it("a new _ENV through debug.setupvalue", function()
            then_healthy [[
                local self = debug.getinfo(1, "f").func
                debug.setupvalue(self, 1, {})
                return 'done'
            ]]
        end)
    end

    it("a debug hook", function()
        -- The task itself must come to its end: the hook would only strike at a later one.
        then_healthy "debug.sethook(function() error 'a hook of an earlier task' end, '', 100000) return 'done'"
        local ok, back = pool:run(function()
            local sum = 0
            for n = 1, 1000000 do
                sum = sum + n % 2
            end
            return sum
        end)
        assert.are.same({ true, 500000 }, { ok, back })
    end)

    it("a yield across nothing that takes it ends the task, and nothing else", function()
        local future = pool:submit(function() return coroutine.yield "nobody" end)
        local ok, err = future:await(helper.TIMEOUT)
        assert.is_false(ok)
        assert.is_truthy(err)
        healthy()
    end)
end)
