--- Values that both sides have: modules and what is one level inside them travel by name.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local pending = pending
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

describe("a captured module", function()
    local pool, directory, path

    setup(function()
        pool = threadpool.fixed(1)
        local _, made = helper.shell "mktemp -d"
        directory = made:match "[^\n]+"
        path = package.path
        package.path = directory .. "/?.lua;" .. path
    end)

    teardown(function()
        pool:shutdown()
        package.path = path
        helper.shell("rm -rf " .. helper.quote(directory))
    end)

    local function module(name, source)
        local file = assert(io.open(directory .. "/" .. name .. ".lua", "w"))
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

    it("of the standard library is the worker's own", function()
        local m, s, t = math, string, table
        assert.are.same({ 3, "HI", "a,b", true }, {
            run(function()
                return m.max(1, 3), s.upper "hi", t.concat({ "a", "b" }, ","), m == math and s == string and t == table
            end),
        })
    end)

    it("or a function of it", function()
        local format, insert, unpack, floor = string.format, table.insert, table.unpack or unpack, math.floor
        local print, pcall, open = print, pcall, io.open
        local G = _G
        assert.are.same({ "007", "x", 2, 1, true }, {
            run(function()
                local list = {}
                insert(list, "x")
                local same = print == G.print and pcall == G.pcall and open == G.io.open and insert == G.table.insert
                return format("%03d", 7), list[1], select(2, unpack { 1, 2 }), floor(1.5), same
            end),
        })
    end)

    it("as a field, as an element, as a key, as an argument, as a result", function()
        local sent = { fmt = string.format, [1] = table.concat, [math.abs] = "abs", lib = { string } }
        local back = run(function(t) return t end, sent)
        assert.is_true(back.fmt == string.format and back[1] == table.concat and back[math.abs] == "abs")
        assert.is_true(back.lib[1] == string)
        assert.is_true(run(function() return string.rep end) == string.rep)
    end)

    it("LuaJIT's bit, jit and ffi, and functions of them", function()
        if not helper.interpreter.is_jit then
            return
        end
        local bit, ffi, jit = require "bit", require "ffi", jit
        local band, new, status = bit.band, ffi.new, jit.status
        assert.are.same({ 4, 0, 5, 8, "boolean", jit.version }, {
            run(function()
                local size = ffi.sizeof "double"
                return band(6, 12), tonumber(new "int"), bit.bor(4, 1), size, type((status())), jit.version
            end),
        })
    end)

    it("of the program's own is what `require` gives the worker", function()
        module("own_module", [[
            local M = { loads = 0 }
            function M.double(n) M.loads = M.loads + 1 return n * 2 end
            M.list = { 1, 2, 3 }
            return M
        ]])
        local own = require "own_module"
        own.list[4] = "only here"
        local double = own.double
        assert.are.same({ 42, 42, true, 3, 2 }, {
            run(function()
                local a, b = own.double(21), double(21)
                return a, b, own == require "own_module", #own.list, own.loads
            end),
        })
        assert.are.equal(0, own.loads)
        assert.is_true(run(function() return own end) == own)
        package.loaded.own_module = nil
    end)

    it("with a class: objects keep their class by name", function()
        module("own_class", [[
            local Class = {}
            Class.__index = Class
            function Class.new(x) return setmetatable({ x = x }, Class) end
            function Class:get() return self.x end
            return Class
        ]])
        local Class = require "own_class"
        local object = Class.new(5)
        local back, same = run(function(o)
            local made = Class.new(o:get() + 1)
            return made, getmetatable(o) == Class and Class == require "own_class"
        end, object)
        assert.is_true(same)
        assert.is_true(getmetatable(back) == Class)
        assert.are.equal(6, back:get())
        package.loaded.own_class = nil
    end)

    it("that the worker cannot load fails that task alone, and says which module", function()
        package.loaded.only_in_memory = { call = function() return 1 end }
        local lost = package.loaded.only_in_memory
        local ok, err = pool:run(function() return lost.call() end)
        assert.is_false(ok)
        assert.matches("only_in_memory", tostring(err))
        assert.are.equal("fine", run(function() return "fine" end))
        package.loaded.only_in_memory = nil
    end)

    it("that raises while it loads fails that task alone, with its message", function()
        module("raises", "error 'this module raises'")
        package.loaded.raises = {}
        local raises = package.loaded.raises
        local ok, err = pool:run(function() return raises end)
        assert.is_false(ok)
        assert.matches("this module raises", tostring(err))
        assert.are.equal("fine", run(function() return "fine" end))
        package.loaded.raises = nil
    end)

    it("threadpool itself works inside tasks", function()
        local captured = threadpool
        local other = threadpool.fixed(1)
        local id = other.id
        assert.are.same({ true, true, "inner" }, {
            run(function()
                local same = captured == require "threadpool" and captured.runInPool == require("threadpool").runInPool
                return same, captured.runInPool(id, function() return "inner" end)
            end),
        })
        other:shutdown()
    end)

    it("its functions too", function()
        local runInPool, sleep, count = threadpool.runInPool, threadpool.sleep, threadpool.processor_count
        assert.are.same({ true, true, "number" }, {
            run(function()
                sleep(0)
                local ok, value = runInPool("CPU", function() return true end)
                return ok, value, type(count())
            end),
        })
    end)

    pending("a pool object travels as a handle of the same pool", function()
        local other = threadpool.fixed(1, { name = "modules-other" })
        local name, id, inner = run(function()
            local _, found = other:run(function() return "inner" end)
            return other.name, other.id, found
        end)
        assert.are.same({ "modules-other", other.id, "inner" }, { name, id, inner })
        other:shutdown()
    end)
end)

describe("what only looks like the standard library", function()
    local function program(source)
        local status, out, err = helper.run('local threadpool = require "threadpool"\n' .. source)
        return { status, out, err }
    end

    it("a table that replaced a library in the globals travels as itself", function()
        assert.are.same({ 0, "true\thi\n", "" }, program [[
            utf8 = { shout = function() return "hi" end }
            string = { shout = function() return "hi" end }
            local lib = string
            print(threadpool.runInPool("CPU", function() return lib.shout() end))
        ]])
    end)

    it("a function that replaced one of a library travels as itself", function()
        assert.are.same({ 0, "true\tmine 1\tmine 2\n", "" }, program [[
            table.concat = function(n) return "mine " .. n end
            local concat = table.concat
            tonumber = function(n) return "mine " .. n end
            local global = tonumber
            print(threadpool.runInPool("CPU", function() return concat(1), global(2) end))
        ]])
    end)

    it("a global function that the program defined travels as itself", function()
        assert.are.same({ 0, "true\t6\n", "" }, program [[
            function add(a, b) return a + b end
            local captured = add
            print(threadpool.runInPool("CPU", function() return captured(1, 5) end))
        ]])
    end)

    it("a table that the program defined as a global travels as itself", function()
        assert.are.same({ 0, "true\t5\tnil\n", "" }, program [[
            config = { answer = 5 }
            local captured = config
            print(threadpool.runInPool("CPU", function() return captured.answer, rawget(_G, "config") end))
        ]])
    end)

    it("the original function is found though the program has put another in its place", function()
        assert.are.same({ 0, "true\t6\n", "" }, program [[
            local original = tonumber
            function tonumber(text) return original(text) + 1 end
            local captured = tonumber
            print(threadpool.runInPool("CPU", function() return captured "5" end))
        ]])
    end)

    it("package.loaded and package travel as the worker's", function()
        assert.are.same({ 0, "true\ttrue\ttrue\n", "" }, program [[
            local package, loaded = package, package.loaded
            print(threadpool.runInPool("CPU", function()
                return package == require "package", loaded == require("package").loaded
            end))
        ]])
    end)
end)
