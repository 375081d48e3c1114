--- A worker's state: what a task finds there.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

describe("a worker's state", function()
    local pool, directory, path, cpath

    setup(function()
        pool = threadpool.fixed(1)
        local _, made = helper.shell "mktemp -d"
        directory = made:match "[^\n]+"
        path, cpath = package.path, package.cpath
    end)

    teardown(function()
        pool:shutdown()
        package.path, package.cpath = path, cpath
        helper.shell("rm -rf " .. helper.quote(directory))
    end)

    local function module(folder, name, source)
        helper.shell("mkdir -p " .. helper.quote(directory .. "/" .. folder))
        local file = assert(io.open(("%s/%s/%s.lua"):format(directory, folder, name), "w"))
        file:write(source)
        file:close()
    end

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    local function run(...)
        return results(pool:run(...))
    end

    it("has the standard library of a fresh one", function()
        local status, out = helper.run [[
            local names = {}
            for name, value in pairs(_G) do
                if type(value) == "table" and name ~= "arg" and name ~= "_G" then
                    for field, inner in pairs(value) do
                        names[#names + 1] = name .. "." .. tostring(field) .. " " .. type(inner)
                    end
                end
                if name ~= "arg" then
                    names[#names + 1] = name .. " " .. type(value)
                end
            end
            table.sort(names)
            for _, name in ipairs(names) do
                if not name:find "^package%.loaded" then print(name) end
            end
        ]]
        assert.are.equal(0, status)
        for name, kind in out:gmatch "(%S+) (%S+)\n" do
            local there = run(function()
                local value = _G
                for part in name:gmatch "[^.]+" do
                    value = value[part]
                end
                return type(value)
            end)
            assert.are.equal(name .. " " .. kind, name .. " " .. there)
        end
    end)

    it("is isolated: globals of the host are not there, nor those of another worker", function()
        rawset(_G, "host_global", 1)
        assert.are.equal("nil", (run(function() return type(rawget(_G, "host_global")) end)))
        rawset(_G, "host_global", nil)
        run(function() rawset(_G, "worker_global", 1) end)
        assert.is_nil(rawget(_G, "worker_global"))
        local other = threadpool.fixed(1)
        assert.are.same({ true, "nil" }, { other:run(function() return type(rawget(_G, "worker_global")) end) })
        other:shutdown()
    end)

    it("stays warm: globals and modules that a task made are there for the next", function()
        run(function()
            rawset(_G, "kept", 1)
            package.loaded.kept_module = { "kept" }
        end)
        assert.are.same({ 1, "kept" }, { run(function() return rawget(_G, "kept"), require("kept_module")[1] end) })
    end)

    it("gets package.path as it was at the submit, also when it has changed since the last", function()
        module("one", "where_am_i", "return 'one'")
        module("two", "where_am_i", "return 'two'")
        local function task()
            package.loaded.where_am_i = nil
            local found, place = pcall(require, "where_am_i")
            return found and place
        end
        assert.is_false(run(task))
        package.path = directory .. "/one/?.lua;" .. path
        assert.are.equal("one", run(task))
        package.path = directory .. "/two/?.lua;" .. path
        assert.are.equal("two", run(task))
        package.path = path
        assert.is_false(run(task))
    end)

    it("gets package.cpath too", function()
        package.cpath = directory .. "/?.none;" .. cpath
        assert.are.equal(package.cpath, run(function() return package.cpath end))
        package.cpath = cpath
        assert.are.equal(cpath, run(function() return package.cpath end))
    end)

    it("gets the path that was at submit, though the host has changed it before the task starts", function()
        local gate, open = helper.gate()
        pool:post(function() io.open(gate):read() end)
        package.path = directory .. "/late/?.lua;" .. path
        local expected = package.path
        local future = pool:submit(function() return package.path end)
        package.path = path
        open()
        assert.are.same({ true, expected }, { future:await(helper.TIMEOUT) })
        os.remove(gate)
    end)

    it("hands the path on to tasks of its tasks", function()
        package.path = directory .. "/nested/?.lua;" .. path
        local expected = package.path
        local other = threadpool.fixed(1)
        local id = other.id
        assert.are.same({ true, expected }, {
            run(function() return threadpool.runInPool(id, function() return package.path end) end),
        })
        package.path = path
        other:shutdown()
    end)

    it("takes a package.path that is no string, or gone, as no path", function()
        for _, odd in ipairs { false, 5 } do
            package.path = odd or nil
            local ok, err = pcall(pool.run, pool, function() return 1 end)
            package.path = path
            assert.is_true(ok, err)
            assert.are.equal(1, run(function() return 1 end))
        end
    end)

    it("can require threadpool, which is the one of this library", function()
        assert.are.same({ "table", true }, {
            run(function()
                local inner = require "threadpool"
                return type(inner), inner.pool("CPU").id == 0
            end),
        })
    end)

    it("can do blocking work: io.popen and os.execute", function()
        assert.are.equal("from a child", run(function()
            local pipe = io.popen "echo from a child"
            local text = pipe:read "*l"
            pipe:close()
            return text
        end))
    end)

    it("debug.getinfo and debug.traceback work in tasks", function()
        local source, current = run(function()
            local info = debug.getinfo(1, "Sl")
            return info.short_src, info.currentline
        end)
        assert.matches("worker_spec%.lua$", source)
        assert.are.equal("number", type(current))
        assert.matches("worker_spec%.lua:%d+:", run(function()
            local text = debug.traceback() -- no tail call
            return text
        end))
    end)

    it("coroutine.running in a task is a coroutine, and isyieldable says what is true", function()
        local kind, status = run(function()
            local co = coroutine.running()
            return type(co), co and coroutine.status(co)
        end)
        assert.are.same({ "thread", "running" }, { kind, status })
    end)

    it("reads and sets a seed of math.random of its own, without harm", function()
        local ok = pool:run(function()
            math.randomseed(42)
            return math.random()
        end)
        assert.is_true(ok)
    end)

    if helper.interpreter.is_jit then
        it("on LuaJIT has the compiler on, and ffi and bit", function()
            assert.are.same({ jit.version, true, 6, 42, "x86 or other" }, {
                run(function()
                    local ffi = require "ffi"
                    ffi.cdef "int abs(int);"
                    local list = ffi.new("int[3]", 1, 2, 3)
                    local on = jit.status()
                    return jit.version, on, list[0] + list[1] + list[2], ffi.C.abs(-42), jit.arch and "x86 or other"
                end),
            })
            assert.are.equal(500000500000, run(function()
                local sum = 0
                for n = 1, 1000000 do
                    sum = sum + n
                end
                return sum
            end))
        end)
    end
end)

describe("print in workers", function()
    it("writes whole lines, of four at once", function()
        local status, out, err = helper.run [[
            local threadpool = require "threadpool"
            local pool = threadpool.fixed(4)
            for worker = 1, 4 do
                pool:post(function()
                    for n = 1, 500 do
                        print(worker, n, ("x"):rep(n), nil, true)
                    end
                end)
            end
            pool:shutdown()
            pool:wait_for_termination()
        ]]
        assert.are.same({ 0, "" }, { status, err })
        local seen, lines = { 0, 0, 0, 0 }, 0
        for line in out:gmatch "([^\n]*)\n" do
            local worker, n, text = line:match "^(%d)\t(%d+)\t(x+)\tnil\ttrue$"
            assert.is_truthy(worker, line)
            worker, n = tonumber(worker), tonumber(n)
            assert.are.equal(n, #text)
            assert.are.equal(seen[worker] + 1, n) -- each worker's own lines are in order
            seen[worker], lines = n, lines + 1
        end
        assert.are.equal(2000, lines)
    end)

    it("honours __tostring, NUL bytes and no arguments, and is there before the exit", function()
        local status, out, err = helper.run [[
            local threadpool = require "threadpool"
            io.write "host "
            threadpool.runInPool("CPU", function()
                print(setmetatable({}, { __tostring = function() return "an object" end }), "a\0b")
                print()
            end)
            io.write "host again\n"
        ]]
        assert.are.same({ 0, "host an object\ta\0b\n\nhost again\n", "" }, { status, out, err })
    end)

    it("raises what __tostring raises, in the task", function()
        local ok, err = threadpool.runInPool("CPU", function()
            print(setmetatable({}, { __tostring = function() error("in __tostring", 0) end }))
        end)
        assert.are.same({ false, "in __tostring" }, { ok, err })
    end)
end)
