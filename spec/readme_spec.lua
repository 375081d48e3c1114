--- The README: every Lua block of it is a program of its own, and prints what its `-->` comments say.

local helper = require "spec.helper"

-- Modules that a block may need and a machine may lack.
local OPTIONAL = { "luv" }

local function read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read "*a"
    file:close()
    return text
end

--- The Lua blocks of a Markdown text: a list of { heading, code }.
local function blocks(text)
    local list, heading, code = {}, "", nil
    for line in text:gmatch "([^\n]*)\n" do
        if code and line == "```" then
            list[#list + 1] = { heading = heading, code = table.concat(code, "\n") .. "\n" }
            code = nil
        elseif code then
            code[#code + 1] = line
        elseif line == "```lua" then
            code = {}
        else
            heading = line:match "^#+ (.*)" or heading
        end
    end
    return list
end

--- What the `-->` comments of a program say that it prints.
local function promised(code)
    local lines = {}
    for line in code:gmatch "%-%-> ([^\n]*)\n" do
        lines[#lines + 1] = line .. "\n"
    end
    return table.concat(lines)
end

--- The first module that a program requires and that this interpreter cannot load.
local function lacking(code)
    for _, name in ipairs(OPTIONAL) do
        if code:find('require "' .. name .. '"', 1, true) and not pcall(require, name) then
            return name
        end
    end
end

describe("README.md", function()
    local list = blocks(read "README.md")

    it("has examples", function()
        assert.is_true(#list >= 5)
    end)

    for i, block in ipairs(list) do
        it(("example %d (%s) runs and prints what it says"):format(i, block.heading), function()
            local name = lacking(block.code)
            if name then
                pending("no " .. name .. " here")
                return
            end
            local status, out, err = helper.run(block.code)
            assert.are.same({ 0, promised(block.code), "" }, { status, out, err })
        end)
    end

    it("stays within 200 lines", function()
        assert.is_true(select(2, read("README.md"):gsub("\n", "\n")) <= 200)
    end)
end)
